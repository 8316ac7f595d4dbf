"""Rows held for an operator: list, read, release."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import rows
from agent.outbox.external.connection import one_number, outbox_connection
from agent.outbox.external.steps import rows_between
from agent.outbox.holds import Kind
from agent.outbox.timing.timestamps import AppliedCurves


@dataclass(frozen=True, slots=True)
class Hold:
    """A range of rows held for an operator, with the seqs of its first and last row."""

    id: int
    kind: Kind
    rows: int
    outbox_id: str
    first_seq: int
    last_seq: int
    reason: str


def holds(state_dir: Path) -> list[Hold]:
    """Every hold not yet released, oldest first. Raises OutboxError, NotPermittedError."""
    with outbox_connection(state_dir, "ro") as connection:
        found = connection.execute(
            "SELECT id, kind, first_n, last_n, reason FROM held WHERE released = 0 ORDER BY id"
        ).fetchall()
        return [_hold(connection, *line) for line in found]


def _hold(
    connection: sqlite3.Connection, hold_id: int, kind: Kind, first_n: int, last_n: int, reason: str
) -> Hold:
    ends = [
        rows.parse(row)
        for (row,) in connection.execute(
            "SELECT row FROM swipes WHERE n IN (?, ?) ORDER BY n", (first_n, last_n)
        ).fetchall()
    ]
    first, last = (ends[0], ends[-1]) if ends else (None, None)
    return Hold(
        id=hold_id,
        kind=kind,
        rows=last_n - first_n + 1,
        outbox_id=first.outbox_id if first else "",
        first_seq=first.seq if first else 0,
        last_seq=last.seq if last else 0,
        reason=reason,
    )


def held_rows(state_dir: Path, hold_id: int | None) -> Iterator[bytes]:
    """The rows of one hold, or of all holds (None), in order, as they are sent to the pipe.

    Reads in short steps: the agent is not disturbed by a caller that pauses.
    """
    with outbox_connection(state_dir, "ro") as connection:
        timings = AppliedCurves.read(connection)
        for first_n, last_n in _held_ranges(connection, hold_id):
            for stored in rows_between(connection, first_n, last_n):
                yield timings.as_sent(stored)


def count_held_rows(state_dir: Path, hold_id: int | None) -> int:
    """How many rows held_rows() returns."""
    with outbox_connection(state_dir, "ro") as connection:
        return sum(
            one_number(connection, "SELECT count(*) FROM swipes WHERE n BETWEEN ? AND ?", *ends)
            for ends in _held_ranges(connection, hold_id)
        )


def _held_ranges(connection: sqlite3.Connection, hold_id: int | None) -> list[tuple[int, int]]:
    """The ranges of `n` of one hold, or of all, in order and without overlaps."""
    merged: list[tuple[int, int]] = []
    for first_n, last_n in connection.execute(
        "SELECT first_n, last_n FROM held WHERE released = 0 AND (?1 IS NULL OR id = ?1) ORDER BY first_n",
        (hold_id,),
    ).fetchall():
        if merged and first_n <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last_n))
        else:
            merged.append((first_n, last_n))
    return merged


def release(state_dir: Path, hold_ids: list[int] | None) -> int:
    """Release these holds (None: all), so that their rows may be purged. Returns how many were released."""
    with outbox_connection(state_dir, "rw") as connection:
        connection.execute("BEGIN IMMEDIATE")
        chosen = [i for (i,) in connection.execute("SELECT id FROM held WHERE released = 0").fetchall()]
        chosen = chosen if hold_ids is None else [i for i in chosen if i in hold_ids]
        connection.executemany("UPDATE held SET released = 1 WHERE id = ?", [(i,) for i in chosen])
        connection.execute("COMMIT")
        return len(chosen)
