"""A restart of the server loses no committed row."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, error_code, row, wait_for

STALE = (400, "STALE_CONTINUATION_TOKEN_SEQUENCER")


@pytest.mark.parametrize("way", ["restart", "kill"])
def test_a_restart_keeps_what_was_committed_and_fences_every_writer(tmp_path: Path, way: str) -> None:
    with EmulatorProcess(tmp_path) as emulator:
        door = EmulatorRig(emulator.url).opened()
        door.append([row(seq=1), {}], "2")
        door.committed("2")
        before = door.status()
        emulator.fault("stall_commits")
        door.append([row(seq=3)], "3")
        url, scoped = emulator.url, door.scoped

        if way == "kill":
            emulator.kill()
        emulator.restart()

        assert (emulator.url, door.scoped) == (url, scoped)
        assert error_code(door.append([row(seq=3)], "3")) == STALE
        assert door.status() == before
        assert door.open().json()["channel_status"] == before
        door.append([row(seq=3)], "3")
        door.committed("3")
        assert [item["seq"] for item in emulator.rows()] == [1, 3]


def append_until_it_is_gone(door: EmulatorRig, sent: int) -> int:
    """Rows numbered from sent + 1 on, two at a time; the last number that may have arrived."""
    while True:
        sent += 2
        try:
            door.append([row(seq=sent - 1), row(seq=sent)], str(sent))
        except requests.RequestException:
            return sent


def test_a_kill_at_any_moment_never_parts_rows_from_their_offset_token(tmp_path: Path) -> None:
    with EmulatorProcess(tmp_path, commit_lag_seconds=0, options=["--no-limits"]) as emulator:
        door = EmulatorRig(emulator.url)
        sent = 0
        for round_number in range(4):
            status = door.open().json()["channel_status"]
            sent = int(status["last_committed_offset_token"] or 0)
            killer = threading.Timer(0.02 * (round_number + 1), emulator.kill)
            killer.start()
            sent = append_until_it_is_gone(door, sent)
            killer.join()
            emulator.start()
        committed = int(door.status()["last_committed_offset_token"])

        stored = [item["seq"] for item in emulator.rows()]

    assert stored == list(range(1, committed + 1))
    assert sent >= committed > 0


def test_sigterm_ends_it_cleanly_with_requests_in_the_air(tmp_path: Path) -> None:
    with EmulatorProcess(tmp_path) as emulator:
        door = EmulatorRig(emulator.url).opened()
        door.append([row()], "1")
        door.committed("1")
        emulator.fault("delay", on="open", seconds=60)
        with ThreadPoolExecutor() as pool:
            hanging = pool.submit(door.open)
            wait_for(emulator.state, lambda state: state["seen"][-1]["endpoint"] == "open")

            code = emulator.stop()

        assert code == 0
        assert isinstance(hanging.exception(), requests.RequestException)
        assert [json.loads(item["raw_json"]) for item in emulator.rows()] == [row()]
