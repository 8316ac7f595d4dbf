"""Rows with the times they are sent with: the clock may have been wrong when they were built."""

from __future__ import annotations

import bisect
import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent import rows
from agent.clock.boot_history import BootHistory
from agent.clock.offset_model import STEP_US, OffsetCurve
from agent.outbox.timing.boot_table import points_of, text_of

# A timing that was used stays in use as long as a newer one gives the same, because each change is a write.
_SAME_US = 1_000

# The columns of Stored, in its order; a backlog is read as plain tuples, which takes half the time.
STORED = "n, chain, trusted_us, row, boot, boot_us"
Columns = tuple[int, str, int | None, bytes, int | None, int | None]


class StoredRow(NamedTuple):
    """A row as it lies in the file. `boot` and `boot_us` are None in rows of older files."""

    n: int
    chain: str
    trusted_us: int | None
    row: bytes
    boot: int | None
    boot_us: int | None


class AppliedCurve(NamedTuple):
    """The timing that rows of one boot go with, from a number on."""

    first_n: int
    boot: int
    boot_id: str
    timing: OffsetCurve


class AppliedCurves:
    """The timings that rows went with: all it takes to say the same again in a replay."""

    def __init__(self, used: Iterable[AppliedCurve] = ()) -> None:
        self.used = tuple(used)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> AppliedCurves:
        """As they were written down."""
        found = connection.execute("SELECT first_n, boot, boot_id, points FROM timings ORDER BY first_n")
        return cls(
            AppliedCurve(n, boot, boot_id, OffsetCurve(points_of(text))) for n, boot, boot_id, text in found
        )

    def with_new(self, new: Sequence[AppliedCurve]) -> AppliedCurves:
        """From the first of the new ones on, none of the old: what follows was not committed yet."""
        first_n = new[0].first_n
        return AppliedCurves((*(used for used in self.used if used.first_n < first_n), *new))

    def for_row(self, n: int, boot: int | None) -> AppliedCurve | None:
        """The one in force for a row, None if that is of another boot."""
        index = bisect.bisect_right(self.used, n, key=lambda used: used.first_n)
        found = self.used[index - 1] if index else None
        return found if found is not None and found.boot == boot else None

    def time_of(self, n: int, trusted_us: int | None, boot: int | None, boot_us: int | None) -> int | None:
        """The time that a row went with, microseconds since 1970; None where only the row itself tells."""
        used = self.for_row(n, boot) if boot is not None else None
        if used is None or boot_us is None:
            return trusted_us
        correction = used.timing.at(boot_us)
        if trusted_us is not None and (
            not correction.sure or abs(trusted_us - boot_us - correction.offset_us) <= STEP_US
        ):
            return trusted_us
        return boot_us + correction.offset_us

    def as_sent(self, stored: StoredRow) -> bytes:
        """A row that went, as it went."""
        boot, boot_us = stored.boot, stored.boot_us
        if boot is None or boot_us is None:
            read = _read_of(stored)
            if read is None or read.synced or stored.trusted_us is not None:
                return stored.row
            boot_us = read.boot_us
            boot = next((used.boot for used in self.used if used.boot_id == read.boot_id), None)
        used = self.for_row(stored.n, boot)
        if used is None or _holds(stored, boot_us, used.timing):
            return stored.row
        return _retimed(stored.row, boot_us, used.timing)


def write(connection: sqlite3.Connection, new: Sequence[AppliedCurve]) -> None:
    """Write down what rows are about to go with."""
    connection.execute("DELETE FROM timings WHERE first_n >= ?", (new[0].first_n,))
    connection.executemany(
        "INSERT INTO timings VALUES (?, ?, ?, ?)",
        [(one.first_n, one.boot, one.boot_id, text_of(one.timing.points)) for one in new],
    )


def forget_old(connection: sqlite3.Connection) -> None:
    """Drop what no stored row went with."""
    connection.execute(
        """DELETE FROM timings WHERE first_n < (SELECT max(first_n) FROM timings
           WHERE first_n <= coalesce((SELECT min(n) FROM swipes), first_n))"""
    )


class BatchTimestamps:
    """One batch on its way: which timing each row goes with, and which of them are new.

    `may_wait`: rows whose time may soon be known better stop the batch.
    """

    def __init__(self, boots: BootHistory, used: AppliedCurves, *, may_wait: bool) -> None:
        self.new: list[AppliedCurve] = []
        self._boots = boots
        self._used = used
        self._known = boots.timings()
        self._settled = boots.settled if may_wait else math.inf
        # Offsets of boots whose clock was never wrong, as of nearly all; not where rows went with another.
        self._steady = {number: timing.steady_us for number, timing in self._known.items()}
        for before in used.used:
            if before.timing.steady_us != self._steady.get(before.boot):
                self._steady[before.boot] = None

    def rows(self, taken: Iterable[Columns]) -> list[bytes]:
        """The rows as they go; fewer, or none, where one has to wait."""
        ready: list[bytes] = []
        steady = self._steady
        for columns in taken:
            _, _, trusted_us, row, boot, boot_us = columns
            # The way of nearly all rows, and a backlog is long.
            if trusted_us is not None:
                if boot is None or boot_us is None:
                    ready.append(row)
                    continue
                offset_us = steady.get(boot)
                if offset_us is not None and -STEP_US <= trusted_us - boot_us - offset_us <= STEP_US:
                    ready.append(row)
                    continue
            timed = self._timed(StoredRow._make(columns))
            if timed is None:
                break
            ready.append(timed)
        return ready

    def _timed(self, stored: StoredRow) -> bytes | None:
        """None for a row that waits."""
        boot, boot_us = stored.boot, stored.boot_us
        if boot is None or boot_us is None:
            read = _read_of(stored)
            if read is None or read.synced:
                return stored.row
            boot, boot_us = self._boots.number_of(read.boot_id), read.boot_us
        if stored.trusted_us is None and (boot or 0) > self._settled:
            return None
        known = self._known.get(boot) if boot is not None else None
        if boot is None or known is None:
            return stored.row
        used = self._in_force(stored.n, boot)
        if used is None or not _gives_the_same(used.timing, known, stored, boot_us):
            if used is None and _holds(stored, boot_us, known):
                return stored.row
            used = AppliedCurve(stored.n, boot, self._boots.id_of(boot), known)
            self.new.append(used)
        if _holds(stored, boot_us, used.timing):
            return stored.row
        return _retimed(stored.row, boot_us, used.timing)

    def _in_force(self, n: int, boot: int) -> AppliedCurve | None:
        if self.new:
            return self.new[-1] if self.new[-1].boot == boot else None
        return self._used.for_row(n, boot)


def _holds(stored: StoredRow, boot_us: int, timing: OffsetCurve) -> bool:
    """True if the time of a trusted clock still holds: only the word of another such clock outweighs it."""
    if stored.trusted_us is None:
        return False
    correction = timing.at(boot_us)
    return not correction.sure or abs(stored.trusted_us - boot_us - correction.offset_us) <= STEP_US


def _gives_the_same(used: OffsetCurve, known: OffsetCurve, stored: StoredRow, boot_us: int) -> bool:
    if stored.trusted_us is not None and _holds(stored, boot_us, used) and _holds(stored, boot_us, known):
        return True
    one, other = used.at(boot_us), known.at(boot_us)
    if abs(one.offset_us - other.offset_us) > _SAME_US or (other.sure and not one.sure):
        return False
    return one.bound_us <= 2 * other.bound_us + STEP_US


def _retimed(row: bytes, boot_us: int, timing: OffsetCurve) -> bytes:
    correction = timing.at(boot_us)
    bound = correction.bound_us
    return rows.with_timestamp(
        row,
        boot_us + correction.offset_us,
        sure=correction.sure,
        uncertainty_ms=None if bound == math.inf else math.ceil(bound / 1_000),
    )


def _read_of(stored: StoredRow) -> rows.RecordedTime | None:
    try:
        return rows.recorded_time(stored.row)
    except (ValueError, KeyError, TypeError):
        return None  # bytes that changed on the disk
