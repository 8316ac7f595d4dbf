"""Retention: which committed rows are purged, by age on a trusted clock or by size."""

from __future__ import annotations

import sqlite3

from agent.outbox.recovery.recovering_file import RecoveringFile

# One purge step frees at most this many rows, so that a swipe never waits long for the file.
PURGE_ROWS = 500
# Rows that are neither held for an operator nor part of a replay.
_FREE = """
  NOT EXISTS (SELECT 1 FROM held WHERE released = 0 AND n BETWEEN held.first_n AND held.last_n)
  AND NOT EXISTS (SELECT 1 FROM replays WHERE n BETWEEN replays.first_n AND replays.last_n)
"""


def purge(file: RecoveringFile, *, kept_since_us: int | None, max_bytes: int) -> int:
    """One step: free at most PURGE_ROWS committed rows; returns how many. Not flushed.

    `kept_since_us`: rows read before it are too old, None for none. Above `max_bytes` the oldest
    rows are freed whatever their age. Raises OutboxReplacedError.
    """
    with file.writing(durable=False) as connection:
        return _free(connection, file.state.committed_n, kept_since_us, max_bytes)


def _free(connection: sqlite3.Connection, committed_n: int, kept_since_us: int | None, max_bytes: int) -> int:
    crowded = _used_bytes(connection) > max_bytes
    candidates = connection.execute(
        f"SELECT n, trusted_us FROM swipes WHERE n <= ? AND {_FREE} ORDER BY n LIMIT ?",
        (committed_n, PURGE_ROWS),
    ).fetchall()
    last = 0
    if candidates and (crowded or _all_older(connection, candidates, committed_n, kept_since_us)):
        last = candidates[-1][0]
    elif kept_since_us is not None:
        last = _last_older(candidates, kept_since_us)
    gone = sum(1 for n, _ in candidates if n <= last)
    if gone:
        connection.execute(f"DELETE FROM swipes WHERE n <= ? AND {_FREE}", (last,))
    connection.execute("DELETE FROM held WHERE released = 1 AND last_n <= ?", (committed_n,))
    return gone


def _last_older(candidates: list[tuple[int, int | None]], kept_since_us: int) -> int:
    """The last row that is old enough by a trusted clock, before the first that is not; 0 if none."""
    last = 0
    for n, trusted_us in candidates:
        if trusted_us is not None:
            if trusted_us >= kept_since_us:
                break
            last = n
    return last


def _all_older(
    connection: sqlite3.Connection,
    candidates: list[tuple[int, int | None]],
    committed_n: int,
    kept_since_us: int | None,
) -> bool:
    """True when no candidate has a trusted time and the next row with one is old enough."""
    if kept_since_us is None or any(trusted_us is not None for _, trusted_us in candidates):
        return False
    following = connection.execute(
        """SELECT trusted_us FROM swipes
           WHERE n > ? AND n <= ? AND trusted_us IS NOT NULL ORDER BY n LIMIT 1""",
        (candidates[-1][0], committed_n),
    ).fetchone()
    return following is not None and following[0] < kept_since_us


def _used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes in use; the file itself never shrinks, but its free pages are reused."""
    page, count, free = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page * (count - free))
