"""The tables of door events: numbering, chain, checksums, and how many events are kept.

Events are numbered by `n` for the life of the file, independently of swipes; `seq` is n - first_n + 1 of the
outbox id under which they are sent. Several processes append: the agent, and commands of an operator. So the
number and the chain of a new event come from the table, within the transaction that stores it.

    PENDING -> COMMITTED -> PURGED     as swipes; but only the newest _KEPT events are stored

Of pending events none is deleted: once _MOST_PENDING wait, the agent's new ones are refused and counted, and
the next event that is stored has the count as a detail. Those of operators have some room more.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from agent import event_rows
from agent.door_event import DoorEvent
from agent.errors import OutboxCorruptError
from agent.outbox.records import checksum_of, row_checksum

# A row has some 400 bytes.
_KEPT = 1_000
_MOST_PENDING = 2_000
_MOST_PENDING_WITH_OPERATORS = 2_500
# What of a lost count is sent with the next event.
_REFUSED = "events_refused_before"


class StoredEvent(NamedTuple):
    """An event as stored. `boot` is None where the boot was not known when it was stored."""

    n: int
    chain: str
    row: bytes
    boot: int | None
    boot_us: int
    checksum: int

    @property
    def is_intact(self) -> bool:
        """Whether the event is as it was stored."""
        return self.checksum == row_checksum(self.n, self.chain, None, self.row, self.boot, self.boot_us)


STORED = "n, chain, row, boot, boot_us, checksum"


class EventState(NamedTuple):
    """How far events are committed, and where they were sent last.

    `channel`, `pipe` and `outbox_id` are those of the last channel, `first_n` its event with seq 1, and
    `chain_before` the chain of the event before that one. `suspect_n` as in StateRecord. `refused` events
    found no room since the last one stored. `version` is that of the agent that ran last.
    """

    committed_n: int = 0
    committed_chain: str = ""
    first_n: int = 1
    outbox_id: str = ""
    chain_before: str = ""
    channel: str = ""
    pipe: str = ""
    suspect_n: int = 0
    refused: int = 0
    version: str = ""

    @property
    def checksum(self) -> int:
        """The checksum over all of it."""
        return checksum_of(*self)

    @classmethod
    def checked(cls, columns: tuple[object, ...]) -> EventState | None:
        """The state with these columns and its checksum after them; None if it is damaged."""
        *values, checksum = columns
        if len(values) != len(cls._fields) or checksum != checksum_of(*values):
            return None
        if not all(type(value) is kind for value, kind in zip(values, _KINDS, strict=True)):
            return None
        return cls(*values)  # type: ignore[arg-type] # checked above


_KINDS = (int, str, int, str, str, str, str, int, int, str)
STATE_COLUMNS = ", ".join((*EventState._fields, "checksum"))


def read_state(connection: sqlite3.Connection) -> EventState:
    """The state of the events. Raises OutboxCorruptError if it is damaged."""
    found = connection.execute(f"SELECT {STATE_COLUMNS} FROM door_events_state").fetchone()
    state = EventState.checked(found) if found is not None else None
    if state is None:
        raise OutboxCorruptError("the state of its door events is damaged")
    return state


def write_state(connection: sqlite3.Connection, state: EventState) -> None:
    """Store the state, within the caller's transaction."""
    marks = ", ".join("?" * (len(state) + 1))
    connection.execute(
        f"UPDATE door_events_state SET ({STATE_COLUMNS}) = ({marks})", (*state, state.checksum)
    )


def newest(connection: sqlite3.Connection, state: EventState) -> tuple[int, str]:
    """The number and the chain of the newest event, stored or purged."""
    found = connection.execute("SELECT n, chain FROM door_events ORDER BY n DESC LIMIT 1").fetchone()
    if found is not None and found[0] > state.committed_n:
        return int(found[0]), str(found[1])
    return state.committed_n, state.committed_chain or state.chain_before


def append(
    connection: sqlite3.Connection, events: Sequence[tuple[DoorEvent, int | None]], *, agent_id: str
) -> None:
    """Store events, each with the number of its boot, within the caller's transaction; delete the oldest."""
    state = read_state(connection)
    if not state.chain_before:
        (outbox_id,) = connection.execute(
            "SELECT outbox_id FROM generation ORDER BY first_n DESC LIMIT 1"
        ).fetchone()
        state = state._replace(chain_before=outbox_id)
    n, chain = newest(connection, state)
    for event, boot in events:
        limit = _MOST_PENDING if event.actor is None else _MOST_PENDING_WITH_OPERATORS
        if n - state.committed_n >= limit:
            state = state._replace(refused=state.refused + 1)
            continue
        stored = event
        if state.refused:
            stored = replace(event, details={**event.details, _REFUSED: state.refused})
            state = state._replace(refused=0)
        n += 1
        chain, row = event_rows.render(
            stored, event_id=str(uuid.uuid4()), agent_id=agent_id, previous_chain=chain
        )
        boot_us = event.read_at.boot_us
        checksum = row_checksum(n, chain, None, row, boot, boot_us)
        connection.execute(
            f"INSERT INTO door_events({STORED}) VALUES (?, ?, ?, ?, ?, ?)",
            StoredEvent(n, chain, row, boot, boot_us, checksum),
        )
    write_state(connection, state)
    connection.execute("DELETE FROM door_events WHERE n <= ?", (min(state.committed_n, n - _KEPT),))


def last_kind(connection: sqlite3.Connection, kinds: Sequence[str]) -> str:
    """The kind of the newest stored event of one of these kinds; "" if there is none."""
    cursor = connection.execute("SELECT row FROM door_events ORDER BY n DESC")
    found = next((kind for (row,) in cursor if (kind := event_rows.kind_of(row)) in kinds), "")
    cursor.close()
    return found
