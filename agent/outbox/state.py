"""The state of an outbox file: outbox id, newest row, committed row, rows set aside."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from agent import rows
from agent.errors import OutboxCorruptError
from agent.outbox import schema
from agent.outbox.timing.timestamps import AppliedCurves


@dataclass(frozen=True, slots=True)
class OutboxState:
    """The table `state` and what is derived from the rows; kept in memory: only one agent changes it.

    `n` numbers rows for the life of the file and is never reused; a row's seq is n - base.
    """

    outbox_id: str
    base: int
    last_n: int
    last_chain: str
    committed_n: int
    committed_chain: str
    set_aside_numbers: frozenset[int] = frozenset()
    applied_curves: AppliedCurves = field(default_factory=AppliedCurves)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> OutboxState:
        """The state as stored. Raises OutboxCorruptError where it contradicts itself or its rows."""
        state = connection.execute(
            "SELECT outbox_id, base, committed_n, committed_chain FROM state"
        ).fetchone()
        if state is None or not schema.is_sound(connection, *state):
            raise OutboxCorruptError("its state is damaged")
        outbox_id, base, committed_n, committed_chain = state
        # Only after the high-water mark: older rows may be held while newer ones were purged.
        newest = connection.execute(
            "SELECT n, chain FROM swipes WHERE n > ? ORDER BY n DESC LIMIT 1", (committed_n,)
        )
        # Without such a row the last one is committed, and the high-water mark has its number.
        last_n, last_chain = newest.fetchone() or (
            committed_n,
            committed_chain or rows.first_link(outbox_id),
        )
        aside = connection.execute("SELECT first_n FROM held WHERE kind = 'set_aside'").fetchall()
        return cls(
            outbox_id,
            base,
            last_n,
            last_chain,
            committed_n,
            committed_chain,
            frozenset(n for (n,) in aside),
            AppliedCurves.read(connection),
        )

    @property
    def last_seq(self) -> int:
        """The seq of the newest swipe; 0 before the first."""
        return self.last_n - self.base

    @property
    def committed_seq(self) -> int:
        """Every seq up to this one is in Snowflake, or set aside."""
        return self.committed_n - self.base

    @property
    def pending(self) -> int:
        """Swipes not yet known to be committed, without those set aside."""
        aside = sum(1 for n in self.set_aside_numbers if n > self.committed_n)
        return self.last_n - self.committed_n - aside

    def seq_of(self, n: int) -> int | None:
        """The seq of a row; None for a row of an earlier outbox id."""
        return n - self.base if n > self.base else None
