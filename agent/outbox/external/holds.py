"""Rows held for an operator: list, read, release."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import rows
from agent.outbox.external.connection import one_number, outbox_connection
from agent.outbox.external.operator_actions import OperatorAction
from agent.outbox.external.steps import rows_between
from agent.outbox.holds import Kind
from agent.outbox.state import OutboxState
from agent.rows import RowPosition


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
        state = OutboxState.read(connection)
        return [_hold(connection, state, *line) for line in found]


def _hold(
    connection: sqlite3.Connection,
    state: OutboxState,
    hold_id: int,
    kind: Kind,
    first_n: int,
    last_n: int,
    reason: str,
) -> Hold:
    first, last = (_position(connection, state, n) for n in (first_n, last_n))
    return Hold(
        id=hold_id,
        kind=kind,
        rows=last_n - first_n + 1,
        outbox_id=first.outbox_id,
        first_seq=first.seq,
        last_seq=last.seq,
        reason=reason,
    )


def _position(connection: sqlite3.Connection, state: OutboxState, n: int) -> RowPosition:
    """The position of a row, also of one of an outbox id that only the row contains."""
    position = state.position_of(n)
    if position is not None:
        return position
    found = connection.execute("SELECT row FROM swipes WHERE n = ?", (n,)).fetchone()
    parsed = rows.parse(found[0]) if found is not None else None
    return RowPosition(parsed.outbox_id or "", parsed.seq or 0) if parsed is not None else RowPosition("", 0)


def held_rows(state_dir: Path, hold_id: int | None) -> Iterator[bytes]:
    """The rows of one hold, or of all holds (None), in order, as they are sent to the pipe.

    Reads in short steps: the agent is not disturbed by a caller that pauses.
    """
    with outbox_connection(state_dir, "ro") as connection:
        state = OutboxState.read(connection)
        for first_n, last_n in _held_ranges(connection, hold_id):
            for stored in rows_between(connection, first_n, last_n):
                with contextlib.suppress(ValueError):  # a damaged row cannot be placed
                    yield state.as_sent(stored)


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


def release(state_dir: Path, hold_ids: list[int] | None, action: OperatorAction | None = None) -> int:
    """Release these holds (None: all), so that their rows may be purged. Returns how many were released.

    `action`: recorded in the same transaction.
    """
    with outbox_connection(state_dir, "rw") as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        chosen = [i for (i,) in connection.execute("SELECT id FROM held WHERE released = 0").fetchall()]
        chosen = chosen if hold_ids is None else [i for i in chosen if i in hold_ids]
        connection.executemany("UPDATE held SET released = 1 WHERE id = ?", [(i,) for i in chosen])
        if chosen and action is not None:
            action.append_to(connection)
        connection.execute("COMMIT")
        return len(chosen)
