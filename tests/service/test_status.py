from __future__ import annotations

import json
import os
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.clock.system_clock import SystemClock
from agent.errors import OutboxBusyError
from agent.outbox import Outbox
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.events import NoiseReason
from agent.readers.reader import Reader
from agent.readers.uart import LineErrors
from agent.service.status import StatusReport
from agent.service.status_file import STATUS_FILE, read_status
from tests.support.outbox_rig import commit, opened
from tests.support.swipes import swipe

READER_KEYS = {
    *("id", "state", "device", "protocol", "swipes", "noise", "keys_discarded", "last_swipe_at"),
    "last_rx_seconds",
}
UPLOADER_KEYS = {
    *("state", "reason", "channel", "last_commit_at", "next_try_seconds", "consecutive_failures"),
    "rows_committed",
}
OUTBOX_KEYS = {
    *("outbox_id", "pending", "kept", "rejected", "set_aside", "last_seq", "committed_seq"),
    *("unreadable", "replays", "oldest_pending_seconds", "bytes", "disk_free_bytes", "ok", "problem"),
    *("quarantined", "recovering", "delivered"),
}


def status_of(directory: Path) -> dict[str, Any]:
    return read_status("hq-lobby-1", directory, directory)


@pytest.mark.usefixtures("unprivileged")
def test_a_state_directory_that_cannot_be_listed_is_a_problem_and_no_more() -> None:
    with tempfile.TemporaryDirectory() as name, closing(opened(Path(name))) as outbox:
        outbox.keep(swipe(1))
        Path(name).chmod(0o300)

        found = status_of(Path(name))["outbox"]

        Path(name).chmod(0o700)
    assert found.keys() == OUTBOX_KEYS
    assert not found["ok"]
    assert f"{name} cannot be examined: Permission denied" in found["problem"]


def test_the_status_of_a_running_agent_has_every_member(
    tmp_path: Path, outbox: Outbox, report: StatusReport
) -> None:
    now = SystemClock("always").now()
    outbox.keep(swipe(1, read_at=now), swipe(2, read_at=now))
    commit(outbox, 1)
    report.write(tmp_path)

    status = status_of(tmp_path)

    assert (status["agent_id"], status["version"], status["running"]) == ("hq-lobby-1", __version__, True)
    assert status["outbox"].keys() == OUTBOX_KEYS
    assert status["uploader"].keys() == UPLOADER_KEYS
    assert status["readers"][0].keys() >= READER_KEYS
    assert (status["outbox"]["pending"], status["outbox"]["kept"]) == (1, 1)
    assert status["outbox"]["oldest_pending_seconds"] >= 0
    assert status["uploader"]["channel"] == f"hq-lobby-1-{outbox.outbox_id}"
    assert status["token"]["expires_at"].endswith("Z")
    assert status["key"]["fingerprint"].startswith("SHA256:")
    assert status["key"]["created_at"].endswith("Z")
    assert status["key"]["age_days"] == 0
    assert status["clock"].keys() == {"trusted", "since", "correction_seconds", "ahead_seconds"}
    assert status["clock"]["trusted"] is True
    assert status["disk"]["flushes"] == outbox.file.flushes > 0
    assert status["disk"]["bytes_written"] is None or status["disk"]["bytes_written"] >= 0


def test_readers_are_told_with_their_counts(
    tmp_path: Path, report: StatusReport, reader: Reader, queue: SwipeQueue
) -> None:
    reader.counts.state = "open"
    reader.counts.resolved_device = "/dev/ttyUSB3"
    reader.line_monitor.noisy = True
    reader.flood_monitor.flooding = True
    for value in range(5):
        queue.put(swipe(value))
    queue.remove_first(3, stored=True)
    reader.counts.noise[NoiseReason.CHECKSUM] = 2
    reader.counts.noise[NoiseReason.STRAY] = 1
    reader.counts.line_errors = LineErrors(overrun=1, framing=2)
    reader.counts.last_swipe_boot_us = SystemClock().now().boot_us - 60_000_000
    reader.counts.last_rx_monotonic_s = time.monotonic() - 100
    report.write(tmp_path)

    (shown,) = status_of(tmp_path)["readers"]

    assert (shown["id"], shown["state"], shown["device"], shown["swipes"]) == (
        "RDR-101",
        "open",
        "/dev/ttyUSB0",
        3,
    )
    assert (shown["silent"], shown["noisy"], shown["resolved_device"]) == (False, True, "/dev/ttyUSB3")
    assert shown["line_errors"] == {"overrun": 1, "framing": 2, "parity": 0}
    assert (shown["noise"], shown["noise_reasons"]) == (3, {"checksum": 2, "stray": 1})
    ago = datetime.now(UTC) - datetime.fromisoformat(shown["last_swipe_at"])
    assert 60 <= ago.total_seconds() < 600
    assert shown["last_rx_seconds"] >= 100
    assert (shown["unkept"], shown["lost"]) == (0, 0)
    assert (shown["flooding"], shown["flood_refused"]) == (True, 0)


def test_swipes_that_the_outbox_does_not_take_are_a_problem_with_their_number(
    tmp_path: Path, report: StatusReport, queue: SwipeQueue
) -> None:
    queue.put(swipe(1))
    queue.put(swipe(2))
    queue.problem = OutboxBusyError("outbox.db: database is locked")
    report.write(tmp_path)

    status = status_of(tmp_path)

    assert [reader["unkept"] for reader in status["readers"]] == [2]
    assert not status["outbox"]["ok"]
    assert "2 swipes wait in memory" in status["outbox"]["problem"]


def test_a_stopped_agents_outbox_is_told_and_that_it_is_stopped(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, agent_id="hq-lobby-1")) as outbox:
        outbox.keep(swipe())

    status = status_of(tmp_path)

    assert (status["running"], status["pid"], status["started_at"]) == (False, None, None)
    assert (status["outbox"]["pending"], status["outbox"]["ok"]) == (1, True)
    assert status["readers"] == []


def test_an_outbox_that_cannot_be_read_is_told_as_the_problem(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"no database at all" * 100)

    shown = status_of(tmp_path)["outbox"]

    assert shown["ok"] is False
    assert "not a database" in shown["problem"]


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"monotonic_s": "now"}', '{"monotonic_s": 1}'])
def test_a_status_file_that_cannot_be_used_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    (tmp_path / STATUS_FILE).write_text(content)

    status = status_of(tmp_path)

    assert status["running"] is False
    assert status["uploader"] is None


def test_the_status_file_is_replaced_whole_and_leaves_nothing_beside_it(
    tmp_path: Path, report: StatusReport
) -> None:
    for _ in range(3):
        report.write(tmp_path)

    assert json.loads((tmp_path / STATUS_FILE).read_text())["agent_id"] == "hq-lobby-1"
    assert [path.name for path in tmp_path.iterdir() if STATUS_FILE in path.name] == [STATUS_FILE]


def test_the_group_may_read_the_status_file_and_others_not_whatever_the_umask(
    tmp_path: Path, report: StatusReport
) -> None:
    before = os.umask(0o077)
    try:
        report.write(tmp_path)
    finally:
        os.umask(before)

    assert (tmp_path / STATUS_FILE).stat().st_mode & 0o777 == 0o640


def test_no_card_and_no_token_is_in_the_status(tmp_path: Path, outbox: Outbox, report: StatusReport) -> None:
    outbox.keep(swipe(0x63E9AE))
    report.write(tmp_path)

    shown = json.dumps(status_of(tmp_path))

    assert "63E9AE" not in shown
    assert "eyJ" not in shown
