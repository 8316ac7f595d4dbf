"""Rows held for an operator: rejected ranges, rows set aside, and the server's error counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Literal

from agent.outbox.row_source import ErrorCount

Kind = Literal["rejected", "set_aside"]


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


def restore(connection: sqlite3.Connection, numbers: Sequence[int]) -> None:
    """Remove the holds of these rows set aside."""
    connection.executemany(
        "DELETE FROM held WHERE kind = 'set_aside' AND first_n = ?", [(n,) for n in numbers]
    )


def restore_replayed(connection: sqlite3.Connection, n: int, replay_id: int) -> bool:
    """As restore(), for a row that a replay sent. False if the replay was for the hold of this row."""
    undone = connection.execute(
        """DELETE FROM held WHERE kind = 'set_aside' AND first_n = ? AND EXISTS (
             SELECT 1 FROM replays WHERE replays.id = ?
             AND (held_id IS NULL OR held_id IN (SELECT id FROM held WHERE kind = 'rejected')))""",
        (n, replay_id),
    )
    return undone.rowcount > 0


def error_count(connection: sqlite3.Connection, channel: str) -> ErrorCount | None:
    """The server's error count for a channel as last stored; None if there was none."""
    found = connection.execute(
        "SELECT created_on_ms, rows_error_count FROM error_counts WHERE channel = ?", (channel,)
    ).fetchone()
    return ErrorCount(*found) if found is not None else None


def note_errors(connection: sqlite3.Connection, channel: str, errors: ErrorCount) -> None:
    """Store the server's error count, so that a later rise can be recognised."""
    connection.execute(
        "INSERT OR REPLACE INTO error_counts VALUES (?, ?, ?)", (channel, errors.created_on_ms, errors.rows)
    )
