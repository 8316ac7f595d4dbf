"""Rows that an operator has to look at: rejected ranges, rows set aside, and the server's error counts."""

from __future__ import annotations

import sqlite3
from typing import Literal

from agent.outbox.database import OutboxFile
from agent.outbox.row_source import ErrorCount

Kind = Literal["rejected", "set_aside"]


def reject(connection: sqlite3.Connection, first_n: int, last_n: int, reason: str) -> None:
    """The server counted an error among these rows; which of them is bad it does not tell."""
    connection.execute(
        "INSERT INTO held(kind, first_n, last_n, reason) VALUES ('rejected', ?, ?, ?)",
        (first_n, last_n, reason),
    )


def set_aside(connection: sqlite3.Connection, n: int, reason: str) -> None:
    """The server refuses this one row."""
    connection.execute("DELETE FROM held WHERE kind = 'set_aside' AND first_n = ?", (n,))
    connection.execute(
        "INSERT INTO held(kind, first_n, last_n, reason) VALUES ('set_aside', ?, ?, ?)", (n, n, reason)
    )


def restore(connection: sqlite3.Connection, numbers: list[int]) -> None:
    """These rows are no longer set aside."""
    connection.executemany(
        "DELETE FROM held WHERE kind = 'set_aside' AND first_n = ?", [(n,) for n in numbers]
    )


def error_count(file: OutboxFile, channel: str) -> ErrorCount | None:
    """The server's count for a channel when we last looked; None if we never did."""
    with file.reading() as connection:
        found = connection.execute(
            "SELECT created_on_ms, rows_error_count FROM error_counts WHERE channel = ?", (channel,)
        ).fetchone()
    return ErrorCount(*found) if found is not None else None


def note_errors(connection: sqlite3.Connection, channel: str, errors: ErrorCount) -> None:
    """Write the server's count down, so that only a rise says something."""
    connection.execute(
        "INSERT OR REPLACE INTO error_counts VALUES (?, ?, ?)", (channel, errors.created_on_ms, errors.rows)
    )
