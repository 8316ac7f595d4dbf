"""A door event: what an operator should know about a door, before it is numbered and stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agent.clock.reading import ClockReading

Severity = Literal["info", "warning", "error"]
# A detail that is exported and imported again has to be the same: no fractions.
Detail = str | int | bool | None

# Of a message: enough for every line of the log, and a row stays small.
_LONGEST_MESSAGE = 500


@dataclass(frozen=True, slots=True)
class DoorEvent:
    """One event. `actor` is who ran a command; `read_at` the clocks when it happened."""

    kind: str
    severity: Severity
    message: str
    read_at: ClockReading
    reader_id: str | None = None
    actor: str | None = None
    details: Mapping[str, Detail] = field(default_factory=dict)

    @property
    def short_message(self) -> str:
        """The message, cut to its greatest length."""
        if len(self.message) <= _LONGEST_MESSAGE:
            return self.message
        return self.message[: _LONGEST_MESSAGE - 3] + "..."
