"""Records in the outbox what an operator does with it, as door events; the agent sends them."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from agent.door_event import DoorEvent
from agent.outbox import event_store
from agent.outbox.external.connection import outbox_connection


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """A command that changes or reveals something. `event` has an actor."""

    agent_id: str
    event: DoorEvent

    def append_to(self, connection: sqlite3.Connection) -> None:
        """Store it within the caller's transaction: the action itself, where that changes the outbox."""
        found = connection.execute(
            "SELECT number FROM boots WHERE boot_id = ?", (self.event.read_at.boot_id,)
        ).fetchone()
        boot = found[0] if found is not None else None
        event_store.append(connection, [(self.event, boot)], agent_id=self.agent_id)

    def store(self, state_dir: Path) -> None:
        """Store it in a transaction of its own; on disk on return. Raises OutboxError, NotPermittedError."""
        with outbox_connection(state_dir, "rw") as connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("BEGIN IMMEDIATE")
            self.append_to(connection)
            connection.execute("COMMIT")
