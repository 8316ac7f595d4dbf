"""The state of an outbox file: generations, newest row, committed row, rows set aside."""

from __future__ import annotations

import bisect
import sqlite3
from dataclasses import dataclass, field

from agent import rows
from agent.errors import OutboxCorruptError
from agent.outbox import event_store, holds
from agent.outbox.records import STATE_COLUMNS, Generation, StateRecord
from agent.outbox.recovery import progress
from agent.outbox.recovery.progress import Recovery
from agent.outbox.timing.timestamps import AppliedCurves, StoredRow
from agent.rows import RowPosition


@dataclass(frozen=True, slots=True)
class OutboxState:
    """The stored state and what is derived from the rows; kept in memory: only one agent changes it.

    `n` numbers rows for the life of the file and is never reused; a row's seq is n - first_n + 1 of its
    generation. `lost` are ranges of numbers whose rows a rebuild has not found. The suspect of the record is
    one of `set_aside_numbers`.
    """

    record: StateRecord
    generations: tuple[Generation, ...]
    last_n: int
    last_chain: str
    set_aside_numbers: frozenset[int] = frozenset()
    lost: tuple[tuple[int, int], ...] = ()
    applied_curves: AppliedCurves = field(default_factory=AppliedCurves)

    @classmethod
    def read(cls, connection: sqlite3.Connection) -> OutboxState:
        """The state as stored. Raises OutboxCorruptError where it is damaged or contradicts its rows."""
        record, generations = read_record(connection), read_generations(connection)
        committed_n, newest_generation = record.committed_n, generations[-1]
        # Only after the high-water mark: older rows may be held while newer ones were purged.
        newest = connection.execute(
            "SELECT n, chain FROM swipes WHERE n > ? ORDER BY n DESC LIMIT 1", (committed_n,)
        ).fetchone()
        last_n, last_chain = newest or (committed_n, record.committed_chain)
        if last_n < newest_generation.first_n:
            # The next swipe is its first one.
            last_n, last_chain = newest_generation.first_n - 1, newest_generation.chain_before
        holds.check(connection)
        event_store.read_state(connection)  # a damaged one is found at open
        aside, lost = holds.set_aside_rows(connection)
        if record.suspect_n:
            aside |= {record.suspect_n}
        curves = AppliedCurves.read(connection)
        return cls(record, generations, last_n, last_chain, aside, lost, curves)

    # --- what is stored -------------------------------------------------------------------------

    @property
    def outbox_id(self) -> str:
        """The id of the newest generation: a rebuilt file, or one that started a generation, has another."""
        return self.generations[-1].outbox_id

    @property
    def committed_n(self) -> int:
        """Every row up to this one is in Snowflake, or set aside."""
        return self.record.committed_n

    @property
    def committed_chain(self) -> str:
        """The chain of that row; "" before the first commit."""
        return self.record.committed_chain

    # --- recovery -------------------------------------------------------------------------------

    @property
    def recoveries(self) -> tuple[Recovery, ...]:
        """The quarantined files of which rows are still to be moved to this file."""
        return progress.parsed(self.record.recovering)

    @property
    def is_withheld(self) -> bool:
        """Whether older pending rows are still to be moved: no row is sent until they are there."""
        return any(one.withholds for one in self.recoveries)

    @property
    def _absent(self) -> list[tuple[int, int]]:
        """Ranges of numbers that have no row in this file, in order, without overlaps."""
        ranges = [*self.lost, *((one.first_n, one.end_n) for one in self.recoveries if one.withholds)]
        if len(ranges) == len(self.lost):
            return ranges
        merged: list[tuple[int, int]] = []
        for first, last in sorted(ranges):
            begin = max(first, merged[-1][1] + 1) if merged else first
            if begin <= last:
                merged.append((begin, last))
        return merged

    # --- generations ----------------------------------------------------------------------------

    @property
    def sending(self) -> Generation:
        """The generation of the next row to send; the newest one if there is none."""
        generations, after = self.generations, self.committed_n + 1
        if generations[-1].first_n <= after:
            return generations[-1]
        first = max(0, bisect.bisect_right(generations, after, key=lambda one: one.first_n) - 1)
        for index in range(first, len(generations) - 1):
            end = generations[index + 1].first_n - 1
            if self._pending_between(max(after, generations[index].first_n), end) > 0:
                return generations[index]
        return generations[-1]

    def last_n_of(self, generation: Generation) -> int:
        """The number of the last row of a generation."""
        index = bisect.bisect_right(self.generations, generation.first_n, key=lambda one: one.first_n)
        return self.generations[index].first_n - 1 if index < len(self.generations) else self.last_n

    def position_of(self, n: int) -> RowPosition | None:
        """Outbox id and seq of a row; None for a row of a generation of schemas 1-3, which contains both."""
        index = bisect.bisect_right(self.generations, n, key=lambda one: one.first_n)
        if index == 0:
            return None
        first_n, outbox_id, chain_before = self.generations[index - 1]
        return RowPosition(outbox_id, n - first_n + 1, chain_before if n == first_n else None)

    def as_sent(self, stored: StoredRow) -> bytes:
        """A row with its time and its position. Raises ValueError for a damaged row of schemas 1-3."""
        position, row = self.position_of(stored.n), self.applied_curves.timed(stored)
        return rows.as_sent(row, position) if position is not None else row

    # --- counts ---------------------------------------------------------------------------------

    @property
    def base(self) -> int:
        """What is added to a seq to get n, in the generation that is being sent."""
        return self.sending.first_n - 1

    @property
    def last_seq(self) -> int:
        """The seq of the newest swipe of the generation that is being sent; 0 before the first."""
        sending = self.sending
        return self.last_n_of(sending) - sending.first_n + 1

    @property
    def committed_seq(self) -> int:
        """Every seq of this generation up to this one is in Snowflake, or set aside."""
        return max(0, self.committed_n - self.base)

    @property
    def pending(self) -> int:
        """Swipes not yet known to be committed, without those set aside and those lost; with a suspect."""
        suspects = int(self.record.suspect_n > self.committed_n)
        return self._pending_between(self.committed_n + 1, self.last_n) + suspects

    def _pending_between(self, first_n: int, last_n: int) -> int:
        absent = self._absent
        lost = [(max(first, first_n), min(last, last_n)) for first, last in absent if last >= first_n]
        aside = sum(
            first_n <= n <= last_n and not any(first <= n <= last for first, last in absent)
            for n in self.set_aside_numbers
        )
        return last_n - first_n + 1 - aside - sum(max(0, last - first + 1) for first, last in lost)


def read_record(connection: sqlite3.Connection) -> StateRecord:
    """The state record. Raises OutboxCorruptError if it is damaged, or not that of the row it names."""
    found = connection.execute(f"SELECT {STATE_COLUMNS} FROM state").fetchone()
    record = StateRecord.checked(found) if found is not None else None
    if record is None:
        raise OutboxCorruptError("its state is damaged")
    try:
        progress.parsed(record.recovering)
    except ValueError as error:
        raise OutboxCorruptError("its state is damaged: what is to be recovered") from error
    row = connection.execute("SELECT chain FROM swipes WHERE n = ?", (record.committed_n,)).fetchone()
    if row is not None and record.committed_chain not in {"", row[0]}:
        raise OutboxCorruptError("its state contradicts its rows")
    return record


def write_record(connection: sqlite3.Connection, record: StateRecord) -> None:
    """Store the state record, within the caller's transaction."""
    marks = ", ".join("?" * (len(record) + 1))
    connection.execute(f"UPDATE state SET ({STATE_COLUMNS}) = ({marks})", (*record, record.checksum))


def read_generations(connection: sqlite3.Connection) -> tuple[Generation, ...]:
    """All generations in order, at least one. Raises OutboxCorruptError if one is damaged."""
    found = connection.execute(
        "SELECT first_n, outbox_id, chain_before, checksum FROM generation ORDER BY first_n"
    ).fetchall()
    generations = tuple(filter(None, map(Generation.checked, found)))
    if not generations or len(generations) < len(found):
        raise OutboxCorruptError("its generations are damaged")
    return generations
