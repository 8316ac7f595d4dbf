from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.cli.findings import clock, duration, reader_findings
from agent.clock.system_clock import SystemClock
from agent.keys.keypair import new_key, pem
from agent.outbox import Outbox
from tests.support.cli_rig import AGENT_ID, FRAME, CliRig
from tests.support.emulator_process import EmulatorProcess
from tests.support.needs import ROOT_USER, needs
from tests.support.outbox_rig import commit
from tests.support.swipes import swipe, wait_until


@contextmanager
def starting(door: CliRig) -> Iterator[None]:
    """An agent whose key is not registered: it starts anyway."""
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "run", "--config", str(door.config)], stderr=subprocess.DEVNULL
    ) as agent:
        yield
        agent.terminate()


def page(door: CliRig, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    code = main(["status", "--config", str(door.config)])
    return code, capsys.readouterr().out


def test_before_the_first_start_it_says_what_will_make_the_outbox(
    door: CliRig, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out = page(door, capsys)

    assert code == 1
    assert f"failed   agent {AGENT_ID}: not running\n         next: sudo systemctl start badge-agent" in out
    assert f"warning  outbox: no outbox in {door.state_dir} yet; the first start creates it" in out


def test_rows_set_aside_are_not_delivered_and_need_an_operator(
    door: CliRig, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = Outbox(door.state_dir, agent_id=AGENT_ID)
    now = SystemClock("always").now()
    outbox.keep(*(swipe(value, read_at=now) for value in (1, 2, 3)))
    outbox.set_aside(2, "refused")
    commit(outbox, 3)
    outbox.close()

    code, out = page(door, capsys)
    main(["outbox", "list", "--config", str(door.config)])
    listed = capsys.readouterr().out

    assert code == 1
    assert "nothing pending; 2 delivered" in out
    assert "failed   held rows: 1 set aside, 0 in ranges" in out
    assert "badge-agent replay --set-aside" in listed
    assert "--rejected" not in listed


def test_with_the_agent_stopped_it_says_what_waits(door: CliRig, capsys: pytest.CaptureFixture[str]) -> None:
    outbox = Outbox(door.state_dir, agent_id=AGENT_ID)
    now = SystemClock("always").now()
    outbox.keep(*(swipe(value, read_at=now) for value in (1, 2, 3)))
    commit(outbox, 1)
    outbox.close()

    code, out = page(door, capsys)

    assert code == 1
    assert "ok       outbox: 2 swipes pending, the oldest for " in out
    assert "1 delivered, 1 of them kept for replay" in out
    assert "reader" not in out


def test_a_program_gets_every_member_also_before_the_first_start(
    door: CliRig, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["status", "--json", "--config", str(door.config)])

    status = json.loads(capsys.readouterr().out)
    assert code == 1
    assert status == door.status()
    assert status["outbox"]["pending"] is None
    assert status["outbox"]["ok"] is False


def test_a_running_agent_that_needs_nobody_is_0(door: CliRig, capsys: pytest.CaptureFixture[str]) -> None:
    with door.running_agent() as pid:
        os.write(door.master, FRAME)
        wait_until(lambda: door.status()["uploader"]["rows_committed"] == 1, what="the swipe's commit")

        code, out = page(door, capsys)

    assert code == 0
    assert f"pid {pid}, started " in out
    assert "ok       outbox: nothing pending; 1 delivered" in out
    assert "ok       uploader: idle; last delivery " in out
    assert re.search(
        r"^ok       disk: [0-9.]+ MB written and [1-9][0-9]* flushes since the start$", out, re.MULTILINE
    )
    assert out.splitlines()[-1].split()[:4] == ["RDR-101", "open", "1", "0"]
    assert "010063E9AE" not in out


def test_waiting_for_the_network_is_0_and_says_when_it_tries_again(
    door: CliRig, emulator: EmulatorProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    with door.running_agent():
        emulator.fault("refuse")
        os.write(door.master, FRAME)
        wait_until(lambda: door.status()["uploader"]["state"] == "waiting", what="the uploader to wait")

        code, out = page(door, capsys)

    assert code == 0
    assert "warning  uploader: " in out
    assert "every swipe is kept, try " in out
    assert "1 swipe pending" in out


def test_a_refusal_by_snowflake_is_1_and_leads_to_check(
    door: CliRig, emulator: EmulatorProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    with door.running_agent():
        emulator.fault("revoke_key")
        emulator.fault("expire_tokens")
        os.write(door.master, FRAME)
        wait_until(lambda: door.status()["uploader"]["state"] == "holding", what="the uploader to hold")

        code, out = page(door, capsys)

    assert code == 1
    assert "failed   uploader: delivery is held: " in out
    assert "next: badge-agent check\n" in out


def test_a_lost_reader_is_1_and_named(door: CliRig, capsys: pytest.CaptureFixture[str]) -> None:
    door.configure(port="/dev/no-such-reader")
    with door.running_agent():
        code, out = page(door, capsys)

    assert code == 1
    assert "failed   reader RDR-101: /dev/no-such-reader is not there" in out


def test_a_damaged_outbox_is_1_and_leads_to_check(door: CliRig, capsys: pytest.CaptureFixture[str]) -> None:
    (door.state_dir / "outbox.db").write_bytes(b"no database " * 1000)

    code, out = page(door, capsys)

    assert code == 1
    assert f"failed   outbox: {door.state_dir}/outbox.db" in out
    assert "next: badge-agent check --offline" in out


def test_an_agent_without_status_file_is_1(door: CliRig, capsys: pytest.CaptureFixture[str]) -> None:
    with door.running_agent():
        door.config.write_text(door.config.read_text().replace('"run"', '"elsewhere"'))

        code, out = page(door, capsys)

    assert code == 1
    assert f"running, but {door.directory}/elsewhere/status.json is missing or unusable" in out


@pytest.fixture
def closed_door(door: CliRig) -> Iterator[Path]:
    """The configuration of a door whose state directory is for its owner only."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "state").mkdir(mode=0o700)
        (directory / "config.toml").write_text(door.config.read_text())
        yield directory / "config.toml"


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_who_may_not_look_is_told_so(
    closed_door: Path, unprivileged: None, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    del unprivileged  # from here on the test runs as an unprivileged user
    needs(ROOT_USER)

    code = main(["status", *options, "--config", str(closed_door)])

    said = capsys.readouterr()
    assert code == 77
    assert said.out == ""
    assert f"this user may not read {closed_door.parent}/state/outbox.db" in said.err
    assert "sudo" in said.err


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-3, "0 s"), (0, "0 s"), (119.4, "119 s"), (120, "2 min"), (7200, "2 h"), (10**6, "12 days")],
)
def test_times_are_told_in_the_unit_a_person_would_use(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_key_older_than_90_days_is_a_warning_with_the_way_to_a_new_one(
    door: CliRig, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = door.directory / "rsa_key.p8"
    old = replace(new_key(), created_at=datetime.now(UTC) - timedelta(days=91))
    fresh.touch(mode=0o600)
    fresh.write_bytes(pem(old))
    door.configure(private_key_file=str(fresh))

    with starting(door):
        wait_until(lambda: door.status()["key"]["fingerprint"] is not None, what="the status of the agent")
        _, out = page(door, capsys)
        key = door.status()["key"]

    assert key == {
        "fingerprint": old.fingerprint,
        "created_at": f"{old.created_at:%Y-%m-%dT%H:%M:%SZ}",
        "age_days": 91,
    }
    assert f"warning  key: {old.fingerprint}, 91 days old: change it" in out
    assert "next: sudo badge-agent key rotate" in out


@pytest.mark.parametrize(
    ("told", "state", "words"),
    [
        ({"trusted": True}, "ok", ["synchronised"]),
        ({"trusted": True, "since": 7_300}, "ok", ["synchronised since 2 h"]),
        (
            {"trusted": True, "correction_seconds": 1_772_366_400.0},
            "ok",
            ["it was 56 years 59 days behind before; earlier swipes are corrected by that"],
        ),
        ({"trusted": True, "correction_seconds": 0.2, "ahead_seconds": -59.0}, "ok", ["synchronised"]),
        (
            {"trusted": True, "ahead_seconds": -11_520.0},
            "warning",
            ["compared with Snowflake's clock it is 3 h 12 min behind"],
        ),
        ({"trusted": False}, "warning", ["not synchronised; swipes are kept and get their correct times"]),
        ({"trusted": False, "since": 600}, "warning", ["not synchronised since 10 min"]),
    ],
)
def test_the_clock_is_told_in_words(told: dict[str, Any], state: str, words: list[str]) -> None:
    members = {"since": None, "correction_seconds": None, "ahead_seconds": None} | told
    if members["since"] is not None:
        members["since"] = (datetime.now(UTC) - timedelta(seconds=members["since"])).isoformat()

    finding = clock(members)

    assert finding.state == state
    assert all(word in finding.text for word in words)


@pytest.mark.parametrize(
    ("errors", "shown"),
    [
        (None, []),
        ({"overrun": 0, "framing": 0, "parity": 0}, []),
        ({"overrun": 0, "framing": 3, "parity": 1}, ["3 framing errors, 1 parity error"]),
    ],
)
def test_line_errors_are_shown_and_a_warning_of_a_noisy_reader(
    errors: dict[str, int] | None, shown: list[str]
) -> None:
    reader = {"id": "RDR-101", "state": "open", "noise_reasons": {}, "line_errors": errors}

    quiet = list(reader_findings([reader]))
    noisy = list(reader_findings([{**reader, "noisy": True}]))

    assert [finding.state for finding in quiet] == ["ok"] * len(shown)
    assert [finding.state for finding in noisy] == ["warning"] * (len(shown) + 1)
    assert all(text in finding.text for text, finding in zip(shown, quiet, strict=True))


def test_it_starts_without_the_libraries_of_delivery_and_reading(door: CliRig) -> None:
    code = (
        "import sys; from agent.cli import main; code = main(sys.argv[1:]);"
        "print(code, *sorted(sys.modules), file=sys.stderr)"
    )

    result = subprocess.run(
        [sys.executable, "-c", code, "status", "--config", str(door.config)],
        capture_output=True,
        text=True,
        check=True,
    )

    exit_code, *modules = result.stderr.split()
    libraries = {"requests", "cryptography", "jwt", "serial", "zstandard", "rich", "ssl", "http", "systemd"}
    ours = {"agent.outbox.store", "agent.uploader", "agent.readers.session", "agent.snowpipe.client"}
    assert exit_code == "1"
    assert "agent.cli.status" in modules
    assert (libraries | ours) & set(modules) == set()
