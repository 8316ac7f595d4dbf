"""Bounds the lines of one kind: a fault that comes and goes with every frame must not fill the journal.

Kind: same logger, same text before its values are filled in, same MESSAGE_ID, same reader. Within ten
minutes the first lines of a kind are written; of the others only the last one, at the end of the ten
minutes, with the number of those before it. So the last state of everything is always in the log.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from agent.log.message_ids import fields_of

WINDOW_S = 600.0
# One more than a FailureLog has within a window. With the last one, a kind has at most 78 lines an hour.
LINES_PER_WINDOW = 12
# Bounds the memory. The agent's own lines have some fifty texts, times the number of readers.
_MOST_KINDS = 2000

_Kind = tuple[str, object, str | None, str | None]


@dataclass(slots=True)
class _Seen:
    lines: int = 0
    dropped: int = 0
    last: logging.LogRecord | None = None


class LineLimit:
    """Decides which records are written; thread-safe. All kinds share the begin of a window."""

    def __init__(
        self, monotonic_s: Callable[[], float], *, window_s: float = WINDOW_S, lines: int = LINES_PER_WINDOW
    ) -> None:
        self._monotonic_s = monotonic_s
        self._window_s = window_s
        self._lines = lines
        self._guard = threading.Lock()
        self._ends_s = monotonic_s() + window_s
        self._seen: dict[_Kind, _Seen] = {}

    def admit(
        self, record: logging.LogRecord, ready: Callable[[logging.LogRecord], logging.LogRecord]
    ) -> list[logging.LogRecord]:
        """The records to write now: those held back whose time has come, and this one unless it is held.

        `ready` makes the record to write or to hold. Debug lines are not limited.
        """
        with self._guard:
            released = self._due()
            if record.levelno <= logging.DEBUG:
                return [*released, ready(record)]
            if len(self._seen) >= _MOST_KINDS:
                released += self._release()
            seen = self._seen.setdefault(_kind(record), _Seen())
            if seen.lines < self._lines:
                seen.lines += 1
                return [*released, ready(record)]
            seen.dropped += seen.last is not None
            seen.last = ready(record)
            return released

    def due(self) -> list[logging.LogRecord]:
        """The records that were held back and whose window has ended."""
        with self._guard:
            return self._due()

    def release(self) -> list[logging.LogRecord]:
        """Every record that is held back: the process ends."""
        with self._guard:
            return self._release()

    def _due(self) -> list[logging.LogRecord]:
        now = self._monotonic_s()
        if now < self._ends_s:
            return []
        self._ends_s = now + self._window_s
        return self._release()

    def _release(self) -> list[logging.LogRecord]:
        held = [seen for seen in self._seen.values() if seen.last is not None]
        self._seen.clear()
        records = [self._counted(seen.last, seen.dropped) for seen in held if seen.last is not None]
        return sorted(records, key=lambda record: record.created)

    def _counted(self, record: logging.LogRecord, dropped: int) -> logging.LogRecord:
        if dropped:
            minutes, text = round(self._window_s / 60), record.getMessage()
            record.msg = f"{text} (within {minutes} minutes, {dropped} more lines like this were dropped)"
            record.args = None
        return record


def _kind(record: logging.LogRecord) -> _Kind:
    fields = fields_of(record)
    return (record.name, record.msg, fields.get("MESSAGE_ID"), fields.get("READER"))
