"""A machine, its outbox and the rows sent from it, with the true time of every swipe."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from agent.clock.offset_model import OffsetSample
from agent.outbox import ErrorCount, LiveRows
from agent.outbox.external import replay_queue
from tests.support.clock_rig import ClockRig
from tests.support.outbox_rig import PLENTY, opened
from tests.support.swipes import swipe

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MS = 1_000  # microseconds


def microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - _EPOCH) // timedelta(microseconds=1)


class TimingRig:
    """Its methods alone change it. `truth` has the true time of each swipe, by its value."""

    def __init__(self, directory: Path, machine: ClockRig) -> None:
        self.machine = machine
        self.truth: dict[int, int] = {}
        self.sent: list[dict[str, Any]] = []
        self._directory = directory
        self._images = 0
        self.state_dir = directory / "state-0"
        self.state_dir.mkdir()
        self.outbox = opened(self.state_dir)

    def swipe(self, count: int = 1, *, every_s: float = 7.123) -> None:
        for _ in range(count):
            self.machine.advance(every_s)
            value = len(self.truth) + 1
            self.truth[value] = self.machine.true_us
            self.outbox.keep(swipe(value, read_at=self.machine.now()))

    def look(self) -> None:
        self.outbox.observe_clock(self.machine.now())

    def observe_server(self, *, error_s: float = 1.6, off_s: float = 0.0) -> None:
        """An answer came, with a Date."""
        machine = self.machine
        told = OffsetSample(machine.boot_us, machine.true_offset_us + int(off_s * 1e6), int(error_s * 1e6))
        self.outbox.observe_clock(machine.now(), told)

    def send(self, *, may_wait: bool = False, limit: int = PLENTY) -> list[dict[str, Any]]:
        """The rows that are sent now, committed immediately."""
        live = LiveRows(self.outbox, lambda: 60.0 if may_wait else 0.0)
        batch = live.after(live.committed, limit, max_bytes=10**9)
        if batch is None:
            return []
        live.commit(batch.last, ErrorCount(0, 0), None)
        went = [json.loads(row) for row in batch.rows]
        self.sent += went
        return went

    def power_cut(self, off_s: float = 30.0) -> None:
        """Only what is on disk survives; the machine boots, and the agent reads the clock again."""
        self.restart(is_clean=False)
        self.machine.boot(off_s=off_s)
        self.machine.advance(20)
        self.look()

    def restart(self, *, is_clean: bool = True) -> None:
        """A new agent in the same boot."""
        if is_clean:
            self.outbox.close()
        else:
            self._images += 1
            image = self._directory / f"state-{self._images}"
            image.mkdir()
            for name in ("outbox.db", "outbox.db-wal"):
                shutil.copyfile(self.state_dir / name, image / name)
            self.outbox.close()
            self.state_dir = image
        self.outbox = opened(self.state_dir)

    def replayed(self) -> list[dict[str, Any]]:
        """What a replay of everything that is kept sends, by the rows of a dry run."""
        ranges = replay_queue.find(self.state_dir, replay_queue.Wanted(first_seq=1))
        return [json.loads(row) for row in replay_queue.rows_in(self.state_dir, ranges)]

    def error_us(self, row: dict[str, Any]) -> int:
        return microseconds(row["event_timestamp"]) - self.truth[int(row["card_raw"], 16)]

    def worst_us(self, rows: list[dict[str, Any]]) -> int:
        return max(abs(self.error_us(row)) for row in rows)

    def assert_honest(self, rows: list[dict[str, Any]]) -> None:
        """No time is further off than the row states; a time without a statement is correct to the second."""
        for row in rows:
            told_ms = row.get("time_uncertainty_ms", None if row["clock"] == "estimated" else 1_000)
            assert told_ms is None or abs(self.error_us(row)) <= told_ms * MS + MS, row


def in_order(rows: list[dict[str, Any]]) -> bool:
    times = [row["event_timestamp"] for row in rows]
    return times == sorted(times)


def clocks(rows: list[dict[str, Any]]) -> set[str]:
    return {row["clock"] for row in rows}
