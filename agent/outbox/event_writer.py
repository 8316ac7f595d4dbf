"""Appends door events to the file of the running agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.door_event import DoorEvent
from agent.outbox import event_store
from agent.outbox.recovery.recovering_file import RecoveringFile
from agent.outbox.timing import boot_table


class EventWriter:
    """Appends door events, in one transaction for each call. For several threads.

    Independent of swipes: nothing of the outbox's `state` changes here.
    """

    def __init__(self, file: RecoveringFile, agent_id: str) -> None:
        self._file = file
        self._agent_id = agent_id

    def keep(self, events: Sequence[DoorEvent]) -> None:
        """Store events in order; they are on disk when this returns.

        Raises OutboxUnavailableError if they cannot be stored now, OutboxReplacedError after a damaged file
        was replaced; then none of them is stored: try again.
        """
        boots = self._file.boots
        with self._file.writing() as connection:
            numbered: list[tuple[DoorEvent, int | None]] = []
            for event in events:
                boot, read_at = boots.observe(event.read_at)
                numbered.append((replace(event, read_at=read_at), boot))
            event_store.append(connection, numbered, agent_id=self._agent_id)
            saved = boots.unsaved() if boots.has_news else {}
            boot_table.write(connection, saved.values())
        if saved:
            boots.saved(saved)

    def note_start(self, version: str) -> tuple[str, str]:
        """Store the version of the running agent.

        Returns the version of the agent before it, and how that ended: "start" if the newest event of a start
        or a stop is a start, "stop", or "" without any.
        """
        with self._file.writing(durable=False) as connection:
            state = event_store.read_state(connection)
            kind = event_store.last_kind(connection, ("start", "stop"))
            if state.version != version:
                event_store.write_state(connection, state._replace(version=version))
        return state.version, kind
