"""Retention: which committed rows are purged, by age on a trusted clock or by size.

Theory of operation

A step frees at most PURGE_ROWS rows. They are chosen on the reading connection, so that a swipe waits
for the deletion only, whose cost does not depend on the number of holds. Rows that are held for an
operator or wait for a replay are passed over: their ranges are merged, and the gaps are walked.

A hold or a replay may be added between choice and deletion, by this process or by another. Both have
ids that grow (AUTOINCREMENT): if one was added, the step frees nothing.

The age of a row is not taken from its own time alone. Rows are in the order of their reading, so one
split separates old rows from young ones; where times contradict each other (a clock that was wrong for a
while), the split that the fewest rows contradict counts. A run of wrong times that is longer than a step
is outvoted by rows further on: whatever was read before rows that are all old is old.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.clock.system_clock import boottime_s
from agent.outbox.database import OutboxFile
from agent.outbox.recovery.recovering_file import RecoveringFile

# One purge step frees at most this many rows, so that a swipe never waits long for the file.
PURGE_ROWS = 500
# So many rows with a trusted time, next to each other, are witnesses of the rows before them.
_WITNESSES = 8
# They are searched in this many rows at most: a clock may have been untrusted for a week.
_SEARCHED_ROWS = 10_000
# The WAL is overwritten at most this often: it costs 1.1 MB of writing and one flush.
_ERASE_EVERY_S = 86_400.0

# Committed rows outside of all holds and replays, in order. The outer loop (CROSS JOIN) is over the gaps.
_FREE_ROWS = """
WITH taken(first_n, last_n) AS (
  SELECT 0, 0
  UNION ALL SELECT first_n, last_n FROM held WHERE released = 0
  UNION ALL SELECT first_n, last_n FROM replays
),
gaps(first_n, last_n) AS (
  SELECT max(last_n) OVER (ORDER BY first_n ROWS UNBOUNDED PRECEDING) + 1,
         min(coalesce(lead(first_n) OVER (ORDER BY first_n) - 1, ?1), ?1)
  FROM taken
)
SELECT n, trusted_us FROM (SELECT * FROM gaps WHERE first_n <= last_n ORDER BY first_n) AS gap
CROSS JOIN swipes ON n BETWEEN gap.first_n AND gap.last_n LIMIT ?2
"""
_NEWEST_IDS = "SELECT name, seq FROM sqlite_sequence WHERE name IN ('held', 'replays') ORDER BY name"


class _FreeRow(NamedTuple):
    n: int
    trusted_us: int | None


def purge(
    file: RecoveringFile, *, kept_since_us: int | None, max_bytes: int, final_n: int | None = None
) -> int:
    """One step: free at most PURGE_ROWS committed rows; returns how many. Not flushed.

    `final_n`: no row after it is freed, because an error may still be counted there; None for no limit.
    `kept_since_us`: rows read before it are too old, None for none. Above `max_bytes` the oldest
    rows are freed whatever their age. Raises OutboxReplacedError, OutboxUnavailableError.
    """
    state = file.state
    with file.reading() as connection:
        newest_ids = connection.execute(_NEWEST_IDS).fetchall()
        last_n = state.committed_n if final_n is None else min(final_n, state.committed_n)
        chosen = _choose(connection, last_n, state.committed_n, kept_since_us, max_bytes)
        (is_released,) = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM held WHERE released = 1 AND last_n <= ?)", (state.committed_n,)
        ).fetchone()
    if not chosen and not is_released:
        return 0
    with file.writing(durable=False) as connection:
        is_same = file.state.outbox_id == state.outbox_id
        if not is_same or connection.execute(_NEWEST_IDS).fetchall() != newest_ids:
            return 0
        connection.executemany("DELETE FROM swipes WHERE n = ?", [(row.n,) for row in chosen])
        connection.execute("DELETE FROM held WHERE released = 1 AND last_n <= ?", (state.committed_n,))
    return len(chosen)


def _choose(
    connection: sqlite3.Connection, last_n: int, committed_n: int, kept_since_us: int | None, max_bytes: int
) -> list[_FreeRow]:
    found = connection.execute(_FREE_ROWS, (last_n, PURGE_ROWS)).fetchall()
    free = [_FreeRow(*row) for row in found]
    if not free or _used_bytes(connection) > max_bytes:
        return free
    if kept_since_us is None:
        return []
    return free[: _count_old(connection, free, committed_n, kept_since_us)]


# --- age ------------------------------------------------------------------------------------


def _count_old(
    connection: sqlite3.Connection, free: list[_FreeRow], committed_n: int, kept_since_us: int
) -> int:
    """How many of these rows, from the first on, were read before `kept_since_us`."""
    trusted = [(index, row.trusted_us) for index, row in enumerate(free) if row.trusted_us is not None]
    times = [trusted_us for _, trusted_us in trusted]
    groups = _later_times(connection, free[-1].n, committed_n)
    old = _split(times + next(groups, []), kept_since_us)
    if old > len(trusted) or any(_all_older(times, kept_since_us) for times in groups):
        return len(free)
    return trusted[old - 1][0] + 1 if old else 0


def _split(times: list[int], kept_since_us: int) -> int:
    """How many of the times, in the order of reading, count as old: the number that the fewest contradict.

    The smallest such number: in doubt a row is kept.
    """
    contradictions = sum(time < kept_since_us for time in times)
    best = (contradictions, 0)
    for count, time in enumerate(times, start=1):
        contradictions += -1 if time < kept_since_us else 1
        best = min(best, (contradictions, count))
    return best[1]


def _all_older(times: list[int], kept_since_us: int) -> bool:
    return len(times) == _WITNESSES and max(times) < kept_since_us


def _later_times(connection: sqlite3.Connection, last_n: int, committed_n: int) -> Iterator[list[int]]:
    """Trusted times of committed rows after `last_n`: directly after it, then at doubling distances."""
    distance = 0
    while last_n + distance < committed_n:
        begin = last_n + distance
        found = connection.execute(
            """SELECT trusted_us FROM swipes WHERE n > ? AND n <= ? AND trusted_us IS NOT NULL
               ORDER BY n LIMIT ?""",
            (begin, min(begin + _SEARCHED_ROWS, committed_n), _WITNESSES),
        )
        yield [trusted_us for (trusted_us,) in found.fetchall()]
        distance = max(PURGE_ROWS, 2 * distance)


# --- size, and what is left of purged rows ---------------------------------------------------------


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes in use; the file itself never shrinks, but its free pages are reused."""
    page, count, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page * (count - free))


class WalErasure:
    """Overwrites the write-ahead log after a purge: its older frames still contain the purged rows.

    In the file itself SQLite overwrites what is deleted (PRAGMA secure_delete).
    """

    def __init__(self, file: OutboxFile, *, now_s: Callable[[], float] = boottime_s) -> None:
        self._file = file
        self._now_s = now_s
        self._is_due = False
        self._last_s = now_s()  # opening the file starts a new log

    def after_step(self, freed: int) -> None:
        """Note what a purge step freed; after the last step erase, at most once in _ERASE_EVERY_S.

        Raises OutboxUnavailableError.
        """
        self._is_due = self._is_due or freed > 0
        if self._is_due and not freed and self._now_s() - self._last_s >= _ERASE_EVERY_S:
            self._is_due = not self._file.renew_wal()
            self._last_s = self._now_s() if not self._is_due else self._last_s
