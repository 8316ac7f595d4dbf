"""A whole life of an outbox on a disk that fails at chosen operations: a process that forks for each case."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from agent.errors import (
    AgentError,
    NotPermittedError,
    OutboxError,
    OutboxReplacedError,
    OutboxUnavailableError,
)
from agent.outbox import ErrorCount, LiveRows, Outbox, ReplayRows, database
from agent.outbox.external import replay_queue
from tests.support.outbox_rig import opened, pending_rows, recover, stored
from tests.support.swipes import NOON_US, instant, swipe

_END = 2**60
# A fault that lasts ends after so many failed steps.
_LASTS_STEPS = 3
_TRIES = 10
_HANGS_S = 120
_RESERVE_BYTES = 200_000
_ALLOWED = {"outbox.db", "outbox.db-wal", "outbox.db-shm", "outbox.lock", "outbox.open.lock", "reserve"}


class Case(NamedTuple):
    """One fault: which kinds of operations count, the number of the one that fails, and how."""

    kinds: str
    code: int
    number: int  # 0: none
    is_lasting: bool


class FaultLife:
    """Executes the steps; `problems` has what an outbox must never do."""

    def __init__(self, place: Path, case: Case) -> None:
        self.problems: list[str] = []
        self._state_dir = place / "state"
        self._rules = place / "rules"
        self._failed_steps = 0
        self._outbox: Outbox
        self._next = 1
        self._waiting: list[int] = []
        self._kept: list[int] = []
        self._sent: set[int] = set()
        self._aside: set[int] = set()
        last = _END if case.is_lasting else case.number
        self._rules.write_text(f"n * {case.number} {last} {case.code}\n" if case.number else "")
        self._state_dir.mkdir()
        os.environ |= {
            "FAILING_DISK": str(self._rules),
            "FAILING_DISK_DIR": str(self._state_dir),
            "FAILING_DISK_KINDS": case.kinds,
        }

    def run(self) -> None:
        """From the first start to the last."""
        self._open()
        for _ in range(3):
            self._keep(1)
        self._keep(40)
        self._mark(20)
        self._set_aside()
        self._try(self._replay)
        self._purge()
        self._look_at_clock()
        self._keep(2)
        self._try(lambda: self._outbox.start_generation("another history"))
        self._keep(1)
        self._mark(5)
        self._close()
        self._damage()
        self._open()
        self._keep(1)
        self._mark(7)
        self._purge()
        self._keep(3)
        self._close()
        self._open()
        self._keep(1)
        self._close()
        self._rules.write_text("")
        self._check()

    # --- one step -----------------------------------------------------------------------------

    def _try(self, step: Callable[[], object]) -> bool:
        try:
            step()
        except (OutboxUnavailableError, OutboxReplacedError) as error:
            self._note_failure(error)
            return False
        return True

    def _note_failure(self, error: AgentError) -> None:
        if "bug" in error.hint:
            self.problems.append(f"{type(error).__name__}: {error} ({error.hint})")
        self._failed_steps += 1
        if self._failed_steps >= _LASTS_STEPS:
            self._rules.write_text("")

    def _open(self) -> None:
        for _ in range(_TRIES):
            try:
                self._outbox = opened(self._state_dir, reserve_bytes=_RESERVE_BYTES)
            except (OutboxError, NotPermittedError) as error:  # the process ends, and is started again
                self._note_failure(error)
            else:
                return
        raise AssertionError("it does not open")

    def _keep(self, count: int) -> None:
        self._waiting += range(self._next, self._next + count)
        self._next += count
        self._store_waiting()

    def _store_waiting(self) -> bool:
        waiting = [swipe(value, read_at=instant(NOON_US + value * 1_000_000)) for value in self._waiting]
        if not self._try(lambda: self._outbox.keep(*waiting)):
            return False
        self._kept += self._waiting
        self._waiting = []
        return True

    def _mark(self, limit: int) -> None:
        def mark() -> None:
            recover(self._outbox)
            live = LiveRows(self._outbox)
            batch = live.after(live.committed, limit, max_bytes=10**9)
            if batch is not None:
                values = [int(json.loads(row)["card_raw"], 16) for row in batch.rows]
                self._expect(values == sorted(set(values)), f"sent out of order: {values}")
                self._sent.update(values)
                live.commit(batch.last, ErrorCount(1, 0), None)

        self._try(mark)

    def _set_aside(self) -> None:
        def set_aside() -> None:
            live = LiveRows(self._outbox)
            batch = live.after(live.committed, 1, max_bytes=10**9)
            if batch is not None:
                self._aside.add(int(json.loads(batch.rows[0])["card_raw"], 16))
                self._outbox.set_aside(batch.last[1], "refused: 400")

        self._try(set_aside)

    def _replay(self) -> None:
        if self._outbox.state.committed_n < 4:
            return
        try:
            replay_queue.request(self._state_dir, [replay_queue.Range(3, 4, None, 2)])
        except OutboxError as error:  # another process, which may end with any of them
            self._note_failure(error)
            return
        rows = ReplayRows(self._outbox)
        batch = rows.after(rows.committed, 1, max_bytes=10**9)
        if batch is not None:
            rows.commit(batch.last, ErrorCount(1, 0), None)

    def _purge(self) -> None:
        self._try(lambda: self._outbox.purge(kept_since_us=None, max_bytes=0))
        self._try(self._outbox.refill_reserve)

    def _look_at_clock(self) -> None:
        self._try(lambda: self._outbox.observe_clock(instant(NOON_US, boot_ms=90_000, trusted=False)))

    def _close(self) -> None:
        for _ in range(_TRIES):
            if not self._waiting or self._store_waiting():
                self._outbox.close()
                return
        raise AssertionError("it does not recover")

    def _damage(self) -> None:
        """Damage that costs no row: two tables claim one page."""
        with _Healthy(), closing(sqlite3.connect(self._state_dir / "outbox.db")) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("UPDATE sqlite_master SET rootpage = 2 WHERE name = 'sqlite_sequence'")
            connection.commit()

    # --- afterwards ---------------------------------------------------------------------------

    def _check(self) -> None:
        self._expect(self._kept == list(range(1, self._next)), f"kept: {self._kept}")
        with _Healthy(), closing(opened(self._state_dir, reserve_bytes=_RESERVE_BYTES)) as outbox:
            pending = [int(row["card_raw"], 16) for row in pending_rows(outbox)]
            in_file = [int(row["card_raw"], 16) for row in stored(self._state_dir)]
        left = {value for value in self._kept if value not in self._sent}
        self._expect(pending == sorted(set(pending)), f"pending out of order: {pending}")
        self._expect(len(in_file) == len(set(in_file)), f"twice in the file: {in_file}")
        self._expect(left <= set(in_file), f"lost: {sorted(left - set(in_file))}")
        self._expect(left - self._aside <= set(pending), f"not pending: {left - self._aside - set(pending)}")
        files = {path.name for path in self._state_dir.iterdir()}
        others = {name for name in files - _ALLOWED if ".corrupt-" not in name}
        self._expect(not others, f"files are left: {others}")

    def _expect(self, holds: bool, problem: str) -> None:  # noqa: FBT001 - as assert
        if not holds:
            self.problems.append(problem)


class _Healthy:
    """No fault, and no operation counted, inside."""

    def __enter__(self) -> None:
        self._directory = os.environ.pop("FAILING_DISK_DIR")

    def __exit__(self, *_: object) -> None:
        os.environ["FAILING_DISK_DIR"] = self._directory


def live(case: Case) -> dict[str, object]:
    """One life in a process of its own. Returns its problems, and how many operations there were."""
    in_memory = Path("/dev/shm")  # noqa: S108 - a directory of its own below it; flushes take no time there
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as directory:
        place = Path(directory)
        child = os.fork()
        if child == 0:
            _live_in_child(place, case)
        _, status = os.waitpid(child, 0)
        result = place / "result"
        if not result.exists():
            return {"problems": [f"ended with status {status}"], "counted": 0}
        found: dict[str, object] = json.loads(result.read_text())
        return found


def _live_in_child(place: Path, case: Case) -> None:
    signal.alarm(_HANGS_S)
    one = FaultLife(place, case)
    try:
        one.run()
    except BaseException:  # noqa: BLE001 - reported to the parent
        one.problems.append(traceback.format_exc(limit=-8))
    counted = ctypes.CDLL(None).failing_disk_counted()
    (place / "result").write_text(json.dumps({"problems": one.problems, "counted": counted}))
    os._exit(0)


def main() -> None:
    """Read cases from stdin, one JSON list a line; answer each with one line."""
    # A lock that lasts: what waits for it waits for seconds otherwise.
    database._BUSY_S = 0.05
    database._STILL_BUSY_S = 0.01
    # Otherwise nine operations of ten are the growing of the log, each like the other.
    database._GROWN_WAL_BYTES = 20_000
    for line in sys.stdin:
        print(json.dumps(live(Case(*json.loads(line)))), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
