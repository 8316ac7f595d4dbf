"""Rows held for an operator: rejected ranges, rows set aside, and the server's error counts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any, Literal

from agent.errors import OutboxCorruptError
from agent.outbox.row_source import ErrorCount, Position

Kind = Literal["rejected", "set_aside"]

# Why a suspect is set aside. Without a server's words: Snowflake quotes values of rows.
REFUSED = "refused on its own, again and again; the rows after it were accepted"
# Why the rows between the suspect and the first row that was accepted are.
REFUSED_AFTER = "refused on its own, as the row before it; a later row was accepted"
# Of numbers that were left out.
NO_SWIPE = "no swipe had this number"


def check(connection: sqlite3.Connection) -> None:
    """Raise OutboxCorruptError if a hold or a replay has values that were never stored."""
    for found in connection.execute("SELECT id, kind, first_n, last_n, reason, released FROM held"):
        if not is_hold(found):
            raise OutboxCorruptError("its holds are damaged")
    for found in connection.execute("SELECT id, first_n, last_n, held_id FROM replays"):
        if not is_replay(found):
            raise OutboxCorruptError("its replays are damaged")
    found = connection.execute("SELECT replay_id, n, chain FROM replayed").fetchone()
    if found is None or not is_replayed(found):
        raise OutboxCorruptError("its replays are damaged")


def is_hold(columns: tuple[Any, ...]) -> bool:
    """Whether these can be the columns of a hold."""
    hold_id, kind, first_n, last_n, reason, released = columns
    return (
        _are_numbers(hold_id, first_n, last_n)
        and 0 < first_n <= last_n
        and kind in {"rejected", "set_aside"}
        and isinstance(reason, str)
        and released in {0, 1}
    )


def is_replay(columns: tuple[Any, ...]) -> bool:
    """Whether these can be the columns of a replay."""
    replay_id, first_n, last_n, held_id = columns
    is_range = _are_numbers(replay_id, first_n, last_n) and 0 < first_n <= last_n
    return is_range and (held_id is None or _are_numbers(held_id))


def is_replayed(columns: tuple[Any, ...]) -> bool:
    """Whether these can be the columns of `replayed`."""
    replay_id, n, chain = columns
    return _are_numbers(replay_id, n) and replay_id >= 0 and n >= 0 and isinstance(chain, str)


def _are_numbers(*values: object) -> bool:
    return all(type(value) is int for value in values)


def set_aside_rows(connection: sqlite3.Connection) -> tuple[frozenset[int], tuple[tuple[int, int], ...]]:
    """The numbers of single rows set aside, and the ranges of numbers whose rows are lost."""
    found = connection.execute("SELECT first_n, last_n FROM held WHERE kind = 'set_aside'").fetchall()
    single = frozenset(first for first, last in found if first == last)
    return single, tuple((first, last) for first, last in found if first < last)


def reject(connection: sqlite3.Connection, first_n: int, last_n: int, reason: str) -> None:
    """Hold a range: the server counted an error in it, and does not report for which row."""
    connection.execute(
        "INSERT INTO held(kind, first_n, last_n, reason) VALUES ('rejected', ?, ?, ?)",
        (first_n, last_n, reason),
    )


def set_aside(connection: sqlite3.Connection, n: int, reason: str) -> None:
    """Hold one row that the server refuses on its own; replaces an earlier hold of the row."""
    connection.execute("DELETE FROM held WHERE kind = 'set_aside' AND first_n = ?", (n,))
    connection.execute(
        "INSERT INTO held(kind, first_n, last_n, reason) VALUES ('set_aside', ?, ?, ?)", (n, n, reason)
    )


def refused_before(
    connection: sqlite3.Connection, accepted_n: int, suspect_n: int, held: frozenset[int]
) -> list[int]:
    """The suspect and the rows between it and the first row accepted, but for those in `held`."""
    found = connection.execute(
        "SELECT n FROM swipes WHERE n >= ? AND n < ? ORDER BY n", (suspect_n, accepted_n)
    ).fetchall()
    return [n for (n,) in found if n not in held]


def set_aside_refused(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Hold a suspect, the first of these rows, and the rows that were refused after it."""
    for index, n in enumerate(numbers):
        set_aside(connection, n, REFUSED_AFTER if index else REFUSED)


def hold_lost(
    connection: sqlite3.Connection, first_n: int, last_n: int, reason: str, *, released: bool = False
) -> None:
    """Hold numbers that have no row, so that an operator sees it and they are not waited for.

    `released`: there is nothing that an operator has to see.
    """
    connection.execute(
        "INSERT INTO held(kind, first_n, last_n, reason, released) VALUES ('set_aside', ?, ?, ?, ?)",
        (first_n, last_n, reason, int(released)),
    )


def is_error_count(columns: tuple[Any, ...]) -> bool:
    """Whether these can be a channel, its time of creation, its number of errors and its batches."""
    channel, created_on_ms, count, bounds = columns
    return (
        isinstance(channel, str) and _are_numbers(created_on_ms, count) and _parse_bounds(bounds) is not None
    )


def error_count(connection: sqlite3.Connection, channel: str) -> ErrorCount | None:
    """The server's error count for a channel as last stored; None if there was none."""
    found = connection.execute(
        "SELECT created_on_ms, rows_error_count, bounds FROM error_counts WHERE channel = ?", (channel,)
    ).fetchone()
    if found is None:
        return None
    bounds = _parse_bounds(found[2])
    if bounds is None or not _are_numbers(*found[:2]):
        raise OutboxCorruptError("its error counts are damaged")
    return ErrorCount(found[0], found[1], bounds)


def _parse_bounds(text: object) -> tuple[Position, ...] | None:
    """Positions as stored by note_errors(), in order; None if they are damaged."""
    try:
        stored = json.loads(text) if isinstance(text, str) else None
        bounds = tuple((replay_id, n) for replay_id, n in stored or ())
    except (ValueError, TypeError, RecursionError):
        return None
    is_sound = isinstance(stored, list) and all(_are_numbers(*bound) and min(bound) >= 0 for bound in bounds)
    return bounds if is_sound and list(bounds) == sorted(bounds) else None


def note_errors(connection: sqlite3.Connection, channel: str, errors: ErrorCount) -> None:
    """Store the server's error count and the last batches, so that a later rise falls on the right rows."""
    connection.execute(
        "INSERT OR REPLACE INTO error_counts VALUES (?, ?, ?, ?)",
        (channel, errors.created_on_ms, errors.rows, json.dumps(errors.bounds, separators=(",", ":"))),
    )
