"""Door events for tests, and what of them is stored and sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent import event_rows
from agent.clock.reading import ClockReading
from agent.door_event import DoorEvent
from tests.support.outbox_rig import looked_up
from tests.support.swipes import instant


def event(
    number: int = 1,
    *,
    kind: str = "reader_lost",
    actor: str | None = None,
    read_at: ClockReading | None = None,
) -> DoorEvent:
    """An event that is known by its message."""
    at, details = read_at or instant(), {"n": number}
    return DoorEvent(kind, "warning", f"event {number}", at, "RDR-101", actor, details)


def stored_events(state_dir: Path) -> list[dict[str, Any]]:
    """The stored rows of events, in order."""
    return [json.loads(row) for (row,) in looked_up(state_dir, "SELECT row FROM door_events ORDER BY n")]


def follow_each_other(rows: list[dict[str, Any]], first: str) -> bool:
    """Whether each of these rows has the chain that follows from the row before it."""
    for row in rows:
        if row["chain"] != event_rows.chain_hash(first, row):
            return False
        first = row["chain"]
    return True
