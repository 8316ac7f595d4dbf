"""Timestamps of sent rows: corrected where the clock was wrong when the row was stored."""

from __future__ import annotations

import bisect
import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from agent import rows
from agent.clock.boot_history import BootHistory
from agent.clock.offset_model import STEP_US, OffsetCurve
from agent.outbox.records import row_checksum
from agent.outbox.timing.boot_table import points_of, text_of

# A curve stays applied while a newer one differs by less, because each change is a write.
_SAME_US = 1_000

# The columns of StoredRow, in order; a backlog is read as plain tuples, which takes half the time.
STORED = "n, chain, trusted_us, row, boot, boot_us, checksum"
Columns = tuple[int, str, int | None, bytes, int | None, int | None, int | None]


class StoredRow(NamedTuple):
    """A row as stored. `boot`, `boot_us` and `checksum` may be None in rows of older schemas."""

    n: int
    chain: str
    trusted_us: int | None
    row: bytes
    boot: int | None
    boot_us: int | None
    checksum: int | None


def is_intact(stored: Columns, legacy_n: int) -> bool:
    """Whether a row is as it was stored. A row of an older schema, up to `legacy_n`, has no checksum."""
    n, chain, trusted_us, row, boot, boot_us, checksum = stored
    if checksum is not None:
        return checksum == row_checksum(n, chain, trusted_us, row, boot, boot_us)
    return n <= legacy_n and rows.parse(row) is not None


class AppliedCurve(NamedTuple):
    """The offset curve that rows of one boot are sent with, from `first_n` on."""

    first_n: int
    boot: int
    boot_id: str
    curve: OffsetCurve


class AppliedCurves:
    """The curves that rows were sent with, so that a replay sends the same timestamps. Immutable."""

    def __init__(self, used: Iterable[AppliedCurve] = ()) -> None:
        self.used = tuple(used)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> AppliedCurves:
        """The stored curves."""
        found = connection.execute("SELECT first_n, boot, boot_id, points FROM timings ORDER BY first_n")
        return cls(
            AppliedCurve(n, boot, boot_id, OffsetCurve(points_of(text))) for n, boot, boot_id, text in found
        )

    def with_new(self, new: Sequence[AppliedCurve]) -> AppliedCurves:
        """These curves, replaced from the first new one on: later rows are not committed yet."""
        first_n = new[0].first_n
        return AppliedCurves((*(used for used in self.used if used.first_n < first_n), *new))

    def for_row(self, n: int, boot: int | None) -> AppliedCurve | None:
        """The curve applied to a row, None if there is none for its boot."""
        index = bisect.bisect_right(self.used, n, key=lambda used: used.first_n)
        found = self.used[index - 1] if index else None
        return found if found is not None and found.boot == boot else None

    def time_of(self, n: int, trusted_us: int | None, boot: int | None, boot_us: int | None) -> int | None:
        """The time a row was sent with, in microseconds since 1970; None if only the row contains it."""
        used = self.for_row(n, boot) if boot is not None else None
        if used is None or boot_us is None:
            return trusted_us
        correction = used.curve.at(boot_us)
        if trusted_us is not None and (
            not correction.sure or abs(trusted_us - boot_us - correction.offset_us) <= STEP_US
        ):
            return trusted_us
        return boot_us + correction.offset_us

    def timed(self, stored: StoredRow) -> bytes:
        """A row with the timestamp that it was sent with."""
        boot, boot_us = stored.boot, stored.boot_us
        if boot is None or boot_us is None:
            recorded = _recorded_time(stored)
            if recorded is None or recorded.synced or stored.trusted_us is not None:
                return stored.row
            boot_us = recorded.boot_us
            boot = next((used.boot for used in self.used if recorded.is_of_boot(used.boot_id)), None)
        used = self.for_row(stored.n, boot)
        if used is None or _holds(stored, boot_us, used.curve):
            return stored.row
        return _with_timestamp(stored.row, boot_us, used.curve)


def write(connection: sqlite3.Connection, new: Sequence[AppliedCurve]) -> None:
    """Store the curves that rows are about to be sent with, within the caller's transaction."""
    connection.execute("DELETE FROM timings WHERE first_n >= ?", (new[0].first_n,))
    connection.executemany(
        "INSERT INTO timings VALUES (?, ?, ?, ?)",
        [(one.first_n, one.boot, one.boot_id, text_of(one.curve.points)) for one in new],
    )


def forget_old(connection: sqlite3.Connection) -> None:
    """Delete the curves that no stored row was sent with."""
    connection.execute(
        """DELETE FROM timings WHERE first_n < (SELECT max(first_n) FROM timings
           WHERE first_n <= coalesce((SELECT min(n) FROM swipes), first_n))"""
    )


class BatchTimestamps:
    """The timestamps of one batch: which curve applies to each row, and which curves are new.

    `may_wait`: the batch ends before a row whose time may soon be known better.
    """

    def __init__(self, boots: BootHistory, used: AppliedCurves, *, may_wait: bool) -> None:
        self.new: list[AppliedCurve] = []
        self._boots = boots
        self._used = used
        self._known = boots.timings()
        self._settled = boots.settled if may_wait else math.inf
        # Constant offsets of boots, the common case; None where rows were sent with another curve.
        self._steady = {number: curve.steady_us for number, curve in self._known.items()}
        for before in used.used:
            if before.curve.steady_us != self._steady.get(before.boot):
                self._steady[before.boot] = None

    def rows(self, taken: Iterable[Columns]) -> list[bytes]:
        """The rows as they are sent; fewer, or none, where a row has to wait."""
        ready: list[bytes] = []
        steady = self._steady
        for columns in taken:
            _, _, trusted_us, row, boot, boot_us, _ = columns
            # The fast path of nearly all rows: a backlog is long.
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
        """The row with its timestamp; None for a row that has to wait."""
        boot, boot_us = stored.boot, stored.boot_us
        if boot is None or boot_us is None:
            recorded = _recorded_time(stored)
            if recorded is None or recorded.synced:
                return stored.row
            boot, boot_us = self._boots.number_of(recorded.boot_id), recorded.boot_us
        if stored.trusted_us is None and (boot or 0) > self._settled:
            return None
        known = self._known.get(boot) if boot is not None else None
        if boot is None or known is None:
            return stored.row
        used = self._in_force(stored.n, boot)
        if used is None or not _gives_the_same(used.curve, known, stored, boot_us):
            if used is None and _holds(stored, boot_us, known):
                return stored.row
            used = AppliedCurve(stored.n, boot, self._boots.id_of(boot), known)
            self.new.append(used)
        if _holds(stored, boot_us, used.curve):
            return stored.row
        return _with_timestamp(stored.row, boot_us, used.curve)

    def _in_force(self, n: int, boot: int) -> AppliedCurve | None:
        if self.new:
            return self.new[-1] if self.new[-1].boot == boot else None
        return self._used.for_row(n, boot)


def _holds(stored: StoredRow, boot_us: int, curve: OffsetCurve) -> bool:
    """True if a trusted time remains valid: only another synchronised clock overrides it."""
    if stored.trusted_us is None:
        return False
    correction = curve.at(boot_us)
    return not correction.sure or abs(stored.trusted_us - boot_us - correction.offset_us) <= STEP_US


def _gives_the_same(used: OffsetCurve, known: OffsetCurve, stored: StoredRow, boot_us: int) -> bool:
    if stored.trusted_us is not None and _holds(stored, boot_us, used) and _holds(stored, boot_us, known):
        return True
    one, other = used.at(boot_us), known.at(boot_us)
    if abs(one.offset_us - other.offset_us) > _SAME_US or (other.sure and not one.sure):
        return False
    return one.bound_us <= 2 * other.bound_us + STEP_US


def _with_timestamp(row: bytes, boot_us: int, curve: OffsetCurve) -> bytes:
    correction = curve.at(boot_us)
    bound = correction.bound_us
    return rows.with_timestamp(
        row,
        boot_us + correction.offset_us,
        sure=correction.sure,
        uncertainty_ms=None if bound == math.inf else math.ceil(bound / 1_000),
    )


def _recorded_time(stored: StoredRow) -> rows.RecordedTime | None:
    try:
        return rows.recorded_time(stored.row)
    except (ValueError, KeyError, TypeError):
        return None  # damaged on the disk
