"""metrics.prom, the alert rules and the dashboard; with Prometheus' own tools where they are installed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from agent.clock.system_clock import SystemClock
from agent.outbox import Outbox
from agent.service import metrics
from agent.service.status import StatusReport
from agent.service.status_file import status_of
from tests.support.needs import NODE_EXPORTER, PROMETHEUS, PROMTOOL, needs
from tests.support.outbox_rig import commit
from tests.support.paths import ROOT
from tests.support.swipes import swipe, wait_until

ALERTS = ROOT / "monitoring" / "alerts.yml"
DASHBOARD = ROOT / "monitoring" / "grafana-dashboard.json"
_SAMPLE = re.compile(r"(badge_agent_[a-z_]+)(\{[^}]*\})? (-?[0-9.e+]+)")


def samples(text: str) -> dict[str, float]:
    """Each sample of the text format with its labels; every other line is a HELP or TYPE line."""
    found = {}
    for line in text.splitlines():
        if not line.startswith(("# HELP badge_agent_", "# TYPE badge_agent_")):
            matched = _SAMPLE.fullmatch(line)
            assert matched is not None, line
            labels = ",".join(sorted((matched[2] or "").strip("{}").split(",")))
            found[matched[1] + (f"{{{labels}}}" if labels else "")] = float(matched[3])
    return found


def metrics_of(report: StatusReport, directory: Path) -> str:
    report.write(directory)
    return (directory / metrics.METRICS_FILE).read_text()


def full_status(report: StatusReport, outbox: dict[str, Any]) -> dict[str, Any]:
    """A status in which no value is unknown."""
    status = status_of("hq-lobby-1", report.snapshot(), outbox, running=True)
    moment = "2026-01-31T12:00:00.000000Z"
    status["uploader"]["last_commit_at"] = moment
    status["clock"]["ahead_seconds"] = -0.5
    status["readers"][0]["osdp"] = {"address": 0, "online": True, "secure": True, "identity": None}
    status["outbox"] |= {"oldest_pending_seconds": 2.5}
    status["readers"][0] |= {
        "last_swipe_at": moment,
        "noise_reasons": {"parity": 2},
        "line_errors": {"overrun": 0, "framing": 3, "parity": 1},
    }
    return status


@pytest.fixture
def full(report: StatusReport, outbox: Outbox) -> str:
    """The text with every metric that there is."""
    outbox.keep(swipe(1, read_at=SystemClock("always").now()))
    report.look_at_outbox()
    return metrics.text_of(full_status(report, report._outbox_seen))


def test_the_file_has_the_state_of_the_running_agent(
    tmp_path: Path, outbox: Outbox, report: StatusReport
) -> None:
    now = SystemClock("always").now()
    outbox.keep(*(swipe(value, read_at=now) for value in (1, 2, 3)))
    report.look_at_outbox()
    commit(outbox, 1)

    found = samples(metrics_of(report, tmp_path))

    assert found["badge_agent_pending_swipes"] == 2  # committed after the outbox was counted
    assert found['badge_agent_uploader_state{state="sending"}'] == 1
    assert found['badge_agent_uploader_state{state="holding"}'] == 0
    assert found['badge_agent_reader_open{reader="RDR-101"}'] == 0
    assert found["badge_agent_outbox_usable"] == 1
    assert "badge_agent_oldest_pending_timestamp_seconds" in found
    assert (tmp_path / metrics.METRICS_FILE).stat().st_mode & 0o777 == 0o640


def test_what_is_not_known_has_no_sample_and_no_pending_swipe_no_age(
    tmp_path: Path, outbox: Outbox, report: StatusReport
) -> None:
    outbox.keep(swipe(1, read_at=SystemClock("always").now()))
    report.look_at_outbox()
    commit(outbox, 1)

    text = metrics_of(report, tmp_path)

    assert "badge_agent_oldest_pending_timestamp_seconds" not in text
    assert "badge_agent_clock_ahead_seconds" not in text
    assert "badge_agent_reader_line_errors_total" not in text


def test_an_outbox_that_cannot_be_read_is_a_metric(
    tmp_path: Path, outbox: Outbox, report: StatusReport
) -> None:
    path = outbox.file.path
    path.rename(tmp_path / "moved")
    report.look_at_outbox()

    found = samples(metrics_of(report, tmp_path))

    assert found["badge_agent_outbox_usable"] == 0
    assert "badge_agent_kept_swipes" not in found
    assert found["badge_agent_pending_swipes"] == 0
    (tmp_path / "moved").rename(path)


def test_labels_are_escaped() -> None:
    family = metrics._gauge("x", "About.", metrics.Sample(1, {"reader": 'a"b\\c\nd'}))

    assert list(family)[2] == 'badge_agent_x{reader="a\\"b\\\\c\\nd"} 1.0'


def test_rules_and_dashboard_use_metrics_that_the_agent_has(full: str) -> None:
    exported = {name.partition("{")[0] for name in samples(full)}

    for path in (ALERTS, DASHBOARD):
        used = set(re.findall(r"badge_agent_[a-z_]+", path.read_text()))
        assert used - exported == set(), path.name
        assert used


def test_promtool_accepts_the_metrics(full: str) -> None:
    needs(PROMTOOL)

    done = subprocess.run(
        ["promtool", "check", "metrics"], input=full, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_promtool_accepts_the_rules_and_each_alert_is_raised_when_it_has_to(tmp_path: Path) -> None:
    needs(PROMTOOL)
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(ROOT / "tests" / "data" / "alerts.test.yml", tmp_path)

    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "alerts.test.yml"],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    needs(PROMTOOL)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))

    done = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "queries.yml"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(queries)} rules found" in done.stdout


@contextmanager
def listening(*words: str | Path) -> Iterator[str]:
    """The URL of a server of Prometheus' authors, which logs the port that it was given."""
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            logged = ""
            while not (found := re.search(r"Listening on.*address=127\.0\.0\.1:([0-9]+)", logged)):
                line = process.stderr.readline()
                assert line, f"it ended: {logged}"
                logged += line
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def node_exporter(directory: Path) -> AbstractContextManager[str]:
    """A node_exporter that reads the text files of a directory."""
    return listening(
        *("prometheus-node-exporter", "--web.listen-address=127.0.0.1:0", "--collector.disable-defaults"),
        *("--collector.textfile", f"--collector.textfile.directory={directory}"),
    )


def prometheus(directory: Path, scraped: str) -> AbstractContextManager[str]:
    """A Prometheus that scrapes this URL each second."""
    target = {"job_name": "doors", "static_configs": [{"targets": [scraped.removeprefix("http://")]}]}
    settings = directory / "prometheus.yml"
    settings.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [target]}))
    return listening(
        *("prometheus", f"--config.file={settings}", f"--storage.tsdb.path={directory / 'data'}"),
        "--web.listen-address=127.0.0.1:0",
    )


def test_node_exporter_shows_every_sample_through_a_link_in_its_directory(full: str, tmp_path: Path) -> None:
    needs(NODE_EXPORTER)
    collected = tmp_path / "collected"
    collected.mkdir()
    (tmp_path / metrics.METRICS_FILE).write_text(full)
    (collected / "badge-agent.prom").symlink_to(tmp_path / metrics.METRICS_FILE)

    with node_exporter(collected) as url:
        scraped = requests.get(f"{url}/metrics", timeout=10).text

    ours = "\n".join(line for line in scraped.splitlines() if "badge_agent_" in line)
    assert samples(ours).keys() == samples(full).keys()
    assert "node_textfile_scrape_error 0" in scraped
    assert 'node_textfile_mtime_seconds{file="' in scraped


def test_every_panel_of_the_dashboard_has_data_in_a_real_prometheus(full: str, tmp_path: Path) -> None:
    needs(PROMETHEUS, NODE_EXPORTER)
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = {target["expr"].replace("$instance", ".*") for panel in panels for target in panel["targets"]}
    (tmp_path / "badge-agent.prom").write_text(full)

    with node_exporter(tmp_path) as scraped, prometheus(tmp_path, scraped) as url:

        def series(query: str) -> list[dict[str, Any]]:
            answer = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=10)
            if answer.status_code == requests.codes.unavailable:  # it has not read its files yet
                return []
            assert answer.ok, (query, answer.text)
            return list(answer.json()["data"]["result"])

        # A rate takes two scrapes.
        wait_until(lambda: bool(series("rate(badge_agent_reader_swipes_total[5m])")), what="two scrapes")
        without = {query for query in queries if not series(query)}

    # The one query that filters by value: swipes that wait in memory.
    assert {query for query in without if not query.endswith("> 0")} == set()
