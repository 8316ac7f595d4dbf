"""Requests to a running agent to send stored rows again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import AgentError
from agent.outbox.external.connection import one_number, outbox_connection
from agent.outbox.external.operator_actions import OperatorAction
from agent.outbox.external.steps import rows_between
from agent.outbox.holds import Kind
from agent.outbox.state import OutboxState
from agent.outbox.timing.timestamps import AppliedCurves, is_intact


class NothingToReplayError(AgentError):
    """No stored row matches the request."""


# A row set aside is sent again only by a replay of its hold, ?3.
_NOT_ASIDE = """n NOT IN (
  SELECT first_n FROM held WHERE kind = 'set_aside' AND released = 0 AND id IS NOT ?3)"""
_SENT_AGAIN = f"FROM swipes WHERE n BETWEEN ?1 AND ?2 AND {_NOT_ASIDE}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to send again: held rows of a kind, or a range by seq or by time (both ends included)."""

    kind: Kind | None = None
    first_seq: int | None = None
    last_seq: int | None = None
    first_us: int | None = None
    last_us: int | None = None


@dataclass(frozen=True, slots=True)
class Range:
    """Rows to send again, by their numbers in the file, and the hold to release afterwards."""

    first_n: int
    last_n: int
    held_id: int | None
    rows: int


def find(state_dir: Path, wanted: Wanted) -> list[Range]:
    """The ranges of stored rows that match. Raises NothingToReplayError if there are none, OutboxError."""
    with outbox_connection(state_dir, "ro") as connection:
        ranges = _held(connection, wanted.kind) if wanted.kind else _committed(connection, wanted)
    if not ranges:
        raise NothingToReplayError(
            "no stored row fits",
            hint="badge-agent status shows how many are kept, badge-agent outbox list which are held",
        )
    return ranges


def _held(connection: sqlite3.Connection, kind: Kind) -> list[Range]:
    found = connection.execute(
        """SELECT first_n, last_n, id FROM held WHERE kind = ? AND released = 0
           AND NOT EXISTS (SELECT 1 FROM replays WHERE held_id = held.id) ORDER BY first_n""",
        (kind,),
    ).fetchall()
    counted = [
        Range(first_n, last_n, hold_id, one_number(connection, f"SELECT count(*) {_SENT_AGAIN}", *ends))
        for ends in found
        for first_n, last_n, hold_id in [ends]
    ]
    return [wanted for wanted in counted if wanted.rows]


def _committed(connection: sqlite3.Connection, wanted: Wanted) -> list[Range]:
    state = OutboxState.read(connection)
    base, low, high = state.base, 1, state.committed_n
    if wanted.first_seq is not None or wanted.last_seq is not None:
        low = base + (wanted.first_seq or 1)
        high = min(high, base + wanted.last_seq) if wanted.last_seq is not None else high
    if wanted.first_us is not None or wanted.last_us is not None:
        low, high = _in_time(connection, wanted, state.applied_curves, low, high)
    count, first, last = connection.execute(
        f"SELECT count(*), min(n), max(n) {_SENT_AGAIN}",
        (low, high, None),
    ).fetchone()
    return [Range(first, last, None, count)] if count else []


def _in_time(
    connection: sqlite3.Connection, wanted: Wanted, curves: AppliedCurves, low: int, high: int
) -> tuple[int, int]:
    """The range of rows between two moments; rows are in the order of their reading.

    Rows without a trusted time are included with their neighbours.
    """
    connection.create_function("time_of", 4, curves.time_of, deterministic=True)
    first, last = connection.execute(
        """SELECT min(n), max(n) FROM
             (SELECT n, time_of(n, trusted_us, boot, boot_us) AS at FROM swipes WHERE n BETWEEN ? AND ?)
           WHERE at >= coalesce(?, at) AND at <= coalesce(?, at)""",
        (low, high, wanted.first_us, wanted.last_us),
    ).fetchone()
    return (first, last) if first is not None else (1, 0)


def request(state_dir: Path, ranges: list[Range], action: OperatorAction | None = None) -> list[int]:
    """Queue ranges to be sent again; on disk when it returns. Returns the ids of the replays.

    `action`: recorded in the same transaction.
    """
    with outbox_connection(state_dir, "rw") as connection:
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        ids = [
            added[0]
            for wanted in ranges
            if (
                added := connection.execute(
                    # Another process may have queued the same hold in the meantime.
                    """INSERT INTO replays(first_n, last_n, held_id) SELECT ?1, ?2, ?3
                       WHERE NOT EXISTS (SELECT 1 FROM replays WHERE held_id = ?3) RETURNING id""",
                    (wanted.first_n, wanted.last_n, wanted.held_id),
                ).fetchone()
            )
        ]
        if ids and action is not None:
            action.append_to(connection)
        connection.execute("COMMIT")
        return ids


def rows_in(state_dir: Path, ranges: list[Range]) -> Iterator[bytes]:
    """The rows that a replay of ranges sends, in order, as they were first sent; read in short steps."""
    with outbox_connection(state_dir, "ro") as connection:
        state = OutboxState.read(connection)
        for wanted in ranges:
            for stored in rows_between(connection, wanted.first_n, wanted.last_n, _NOT_ASIDE, wanted.held_id):
                if is_intact(stored, state.record.legacy_n):
                    yield state.as_sent(stored)


def rows_to_replay(state_dir: Path, ids: list[int]) -> int:
    """How many rows of these replays are not yet committed."""
    with outbox_connection(state_dir, "ro") as connection:
        replay_id, n = connection.execute("SELECT replay_id, n FROM replayed").fetchone()
        return sum(
            one_number(
                connection,
                """SELECT count(*) FROM replays JOIN swipes ON n BETWEEN first_n AND last_n
                   WHERE id = ?1 AND (?1 > ?2 OR n > ?3)""",
                i,
                replay_id,
                n,
            )
            for i in ids
        )
