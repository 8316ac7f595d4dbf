"""Counts of an outbox, read from another process: what `status` shows."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from agent import rows
from agent.outbox.database import OUTBOX_FILE
from agent.outbox.external.connection import one_number, outbox_connection
from agent.outbox.recovery import progress
from agent.outbox.recovery.progress import Recovery
from agent.outbox.state import OutboxState, read_record

_ASIDE = "(SELECT first_n FROM held WHERE kind = 'set_aside')"


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """Counts of one outbox file. Rows set aside are neither pending nor kept.

    `recovery` is the progress with the rows of a damaged file, which are not counted until they are moved.
    """

    outbox_id: str
    pending: int
    kept: int
    rejected: int
    set_aside: int
    last_seq: int
    committed_seq: int
    delivered: int  # of this outbox id: committed, and not set aside
    unreadable: int
    replays: int
    oldest_pending_row: bytes | None = field(repr=False)
    bytes: int
    recovery: Recovery | None


def read_counts(state_dir: Path) -> OutboxCounts:
    """Count in the outbox of another process. Raises OutboxError if there is none, NotPermittedError."""
    with outbox_connection(state_dir, "ro") as connection:
        return counts_of(connection, state_dir)


def counts_of(connection: sqlite3.Connection, state_dir: Path) -> OutboxCounts:
    """Count within one read transaction. Raises sqlite3.Error, OutboxCorruptError."""
    connection.execute("BEGIN")  # one snapshot for all the queries below
    try:
        state = OutboxState.read(connection)
        committed_n = state.committed_n
        oldest = connection.execute(
            """SELECT row FROM swipes WHERE n > ? AND n NOT IN
               (SELECT first_n FROM held WHERE kind = 'set_aside') ORDER BY n LIMIT 1""",
            (committed_n,),
        ).fetchone()
        aside = one_number(connection, "SELECT count(*) FROM held WHERE kind = 'set_aside' AND released = 0")
        return OutboxCounts(
            outbox_id=state.sending.outbox_id,
            pending=state.pending,
            kept=_kept(connection, state),
            rejected=one_number(
                connection,
                "SELECT total(last_n - first_n + 1) FROM held WHERE kind = 'rejected' AND released = 0",
            ),
            set_aside=aside,
            last_seq=state.last_seq,
            committed_seq=state.committed_seq,
            delivered=state.committed_seq
            - one_number(
                connection,
                """SELECT total(min(last_n, ?2) - max(first_n, ?1) + 1) FROM held
                   WHERE kind = 'set_aside' AND released = 0 AND last_n >= ?1 AND first_n <= ?2""",
                state.base + 1,
                committed_n,
            ),
            unreadable=state.record.unreadable,
            replays=one_number(connection, "SELECT count(*) FROM replays"),
            oldest_pending_row=oldest[0] if oldest else None,
            bytes=(state_dir / OUTBOX_FILE).stat().st_size,
            recovery=next(iter(state.recoveries), None),
        )
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def recovery_of(state_dir: Path) -> Recovery | None:
    """The progress with the rows of a damaged file; None without. Raises OutboxError, NotPermittedError."""
    with outbox_connection(state_dir, "ro") as connection:
        return next(iter(progress.parsed(read_record(connection).recovering)), None)


def _kept(connection: sqlite3.Connection, state: OutboxState) -> int:
    """Committed rows that are still stored: those after the last purged row, and held ones before it.

    Computed from ranges of `n`, because counting a million rows takes seconds. Numbers are missing where
    rows were lost, and where an older version gave rows of the outbox ids before the first generation
    other numbers; there n - seq of a row is where its id began.
    """
    committed_n = state.committed_n
    first = one_number(
        connection,
        """SELECT n FROM swipes WHERE n <= ?1 AND NOT EXISTS
           (SELECT 1 FROM held WHERE released = 0 AND n BETWEEN first_n AND last_n) ORDER BY n LIMIT 1""",
        committed_n,
    )
    before = first or committed_n + 1
    kept = one_number(
        connection,
        f"""SELECT count(DISTINCT n) FROM held JOIN swipes ON n BETWEEN first_n AND last_n
            WHERE kind = 'rejected' AND released = 0 AND n < ? AND n NOT IN {_ASIDE}""",
        before,
    )
    last, begin = committed_n, state.generations[0].first_n - 1
    while first and last >= first:
        low = max(first, begin + 1)
        missing = sum(max(0, min(end, last) - max(begins, low) + 1) for begins, end in state.lost)
        aside = sum(low <= n <= last for n in state.set_aside_numbers)
        kept += max(0, last - low + 1) - aside - missing
        older = connection.execute(
            f"SELECT n, row FROM swipes WHERE n <= ? AND n NOT IN {_ASIDE} ORDER BY n DESC LIMIT 1", (begin,)
        ).fetchone()
        if older is None:
            break
        parsed = rows.parse(older[1])
        # A row without a seq has a number of its own: its generation is lost, but not its place.
        seq = parsed.seq if parsed is not None else None
        last, begin = older[0], older[0] - max(1, seq) if seq is not None else 0
    return kept
