"""The real agent on a real serial line, with the clocks of a machine that has no battery."""

from __future__ import annotations

import mmap
import struct
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_process import (
    AgentProcess,
    PtyReader,
    assert_in_order_and_whole,
    has_clock,
    reader_table,
    sent_rows,
)
from tests.support.emulator_process import EmulatorProcess
from tests.support.swipes import wait_until

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


class Clocks:
    """The control file of clocks.c. A machine that boots wakes up in 1970."""

    def __init__(self, directory: Path, library: Path) -> None:
        self._file = directory / "clocks"
        self._boot_id = directory / "boot_id"
        self._file.write_bytes(bytes(32))
        with self._file.open("r+b") as file:
            self._control = mmap.mmap(file.fileno(), 32)
        self.environment = {
            "LD_PRELOAD": str(library),
            "CLOCKS_FILE": str(self._file),
            "CLOCKS_BOOT_ID": str(self._boot_id),
        }
        self.boot()

    def boot(self) -> None:
        """At this moment, with a clock that was never set."""
        self._boot_id.write_text(f"{uuid.uuid4()}\n")
        self._set(2, 0)
        self._set(0, -time.time_ns() // 1_000)
        self._set(1, -time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000)

    def ntp_comes(self) -> None:
        """First the clock is right, then the kernel says so."""
        self._set(0, 0)
        self._set(2, 1)

    def _set(self, index: int, value: int) -> None:
        self._control[index * 8 : index * 8 + 8] = struct.pack("=q", value)


class ClockProcessRig:
    """An agent with clocks of its own, its reader, a pipe, and between which moments each tag was read."""

    def __init__(self, directory: Path, library: Path, *, hold_s: int) -> None:
        self.pipe = EmulatorProcess(directory / "pipe")
        self.pipe.start()
        self.line = PtyReader(directory / "reader")
        self.clocks = Clocks(directory, library)
        self.agent = AgentProcess(
            directory / "door",
            url=self.pipe.url,
            private_key_file=self.pipe.private_key_file,
            readers=[reader_table(self.line.device)],
            tables="[uploader]\nbackoff_max_seconds = 0.5\n",
        )
        config = self.agent.config.read_text()
        self.agent.config.write_text(
            config.replace('trust = "always"', f'trust = "auto"\nhold_unsynced_seconds = {hold_s}')
        )
        self.read_between: list[tuple[datetime, datetime]] = []

    def swipe(self, count: int) -> None:
        for _ in range(count):
            before = datetime.now(UTC)
            self.line.present(len(self.read_between) + 1)
            seq = len(self.read_between) + 1
            wait_until(lambda seq=seq: self.agent.outbox().last_seq == seq, what="a kept swipe")  # type: ignore[misc]
            self.read_between.append((before, datetime.now(UTC)))

    def rows(self) -> list[dict[str, Any]]:
        """What is in the table, once all is."""
        self.agent.wait_until_committed(len(self.read_between))
        rows = sent_rows(self.pipe)
        assert_in_order_and_whole(rows, range(1, len(self.read_between) + 1))
        return rows

    def close(self) -> None:
        self.agent.__exit__(None, None, None)
        self.line.unplug()
        self.pipe.__exit__(None, None, None)


@pytest.fixture
def door(
    request: pytest.FixtureRequest, tmp_path: Path, clocks_library: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ClockProcessRig]:
    """The pipe has the clock of this machine, the agent another one."""
    door = ClockProcessRig(tmp_path, clocks_library, hold_s=request.param)
    for name, value in door.clocks.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield door
    finally:
        door.close()


def moment(row: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(row["event_timestamp"])


@pytest.mark.parametrize("door", [3_600], indirect=True)
def test_power_cuts_without_network_and_then_ntp(door: ClockProcessRig) -> None:
    door.agent.start()
    door.clocks.ntp_comes()
    door.swipe(3)
    door.agent.wait_until_committed(3)
    for _ in range(2):
        door.agent.kill()
        door.clocks.boot()
        door.agent.start()
        door.swipe(3)
    door.agent.kill()
    door.clocks.boot()
    door.agent.start()
    door.swipe(3)
    waiting = door.agent.outbox().pending
    clock_before = door.agent.status()["clock"]
    wait_until(lambda: door.agent.status()["uploader"]["state"] == "waiting", what="rows that wait")
    door.clocks.ntp_comes()
    door.swipe(3)

    rows = door.rows()

    assert waiting == 9
    assert not clock_before["trusted"]
    clocks = ["synced"] * 3 + ["estimated"] * 6 + ["corrected"] * 3 + ["synced"] * 3
    assert all(has_clock(row, clock) for row, clock in zip(rows, clocks, strict=True))
    for row, (before, after) in zip(rows, door.read_between, strict=True):
        slack = timedelta(milliseconds=row.get("time_uncertainty_ms", 0)) + _MS
        assert before - slack <= moment(row) <= after + slack
    assert [moment(row) for row in rows] == sorted(moment(row) for row in rows)
    assert all(row["recorded_at"].startswith("1970-") for row in rows[3:12])
    clock = door.agent.status()["clock"]
    assert clock["trusted"]
    assert clock["correction_seconds"] > 50 * 365 * 86_400
    assert "synchronised; it was 5" in door.agent.log


@pytest.mark.parametrize("door", [1], indirect=True)
def test_where_ntp_never_comes_the_servers_clock_is_told_with_its_uncertainty(door: ClockProcessRig) -> None:
    door.agent.start()
    door.swipe(3)

    rows = door.rows()

    assert {row["clock"] for row in rows} == {"estimated"}
    for row, (before, after) in zip(rows, door.read_between, strict=True):
        assert row["time_uncertainty_ms"] < 60_000
        slack = timedelta(milliseconds=row["time_uncertainty_ms"])
        assert before - slack <= moment(row) <= after + slack
    assert "tokens are signed with Snowflake's time" in door.agent.log
    assert door.agent.status()["clock"]["ahead_seconds"] < -50 * 365 * 86_400
