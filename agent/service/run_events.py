"""The door events of a run: its start, an upgrade, its stop."""

from __future__ import annotations

import contextlib
import platform

from agent import __version__
from agent.door_event import Detail, DoorEvent, Severity
from agent.errors import OutboxError
from agent.service.build import Agent
from agent.service.event_log import EventLog

START, STOP = "start", "stop"
_ENDINGS = {
    START: "the run before ended without a stop: power cut, crash or kill",
    STOP: "the run before was stopped",
    "": "no run before is known",
}


def note_start(agent: Agent, event_log: EventLog) -> None:
    """Add the events of a start; another version than that of the run before is one more. Writes nothing."""
    (before, ending), now = agent.run_before, agent.clock.now()
    if before not in {"", __version__}:
        text = f"badge-agent {before} was replaced by {__version__}"
        event_log.add(DoorEvent("upgrade", "info", text, now, details={"from": before, "to": __version__}))
    details: dict[str, Detail] = {
        "version": __version__,
        "python": platform.python_version(),
        "seconds_since_boot": now.boot_us // 1_000_000,
        "pending": agent.outbox.pending,
        "readers": len(agent.settings.readers),
    }
    event_log.add(
        DoorEvent(
            START,
            "warning" if ending == START else "info",
            f"badge-agent {__version__} started; {_ENDINGS[ending]}",
            now,
            details=details,
        )
    )


def note_stop(agent: Agent, event_log: EventLog, reason: str) -> None:
    """Store the events that wait and the stop. A file that cannot be written loses them."""
    pending = agent.outbox.pending
    text = f"badge-agent stopped ({reason}); {pending} swipes are not yet sent or not yet confirmed"
    severity: Severity = "error" if reason == "error" else "info"
    details: dict[str, Detail] = {"reason": reason, "pending": pending}
    stop = DoorEvent(STOP, severity, text, agent.clock.now(), details=details)
    event_log.add(stop)
    with contextlib.suppress(OutboxError):
        event_log.store(agent.outbox.door_events.keep)
