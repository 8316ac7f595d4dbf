"""Door events of the running agent: its log lines that are worth an alarm, their ends, start and stop.

Each line with a MESSAGE_ID is a door event. So nothing is reported in one place only, and what keeps card
numbers out of the log keeps them out of the events. Of an alarm that is logged again and again, the first
line is an event, and the line that reports its end. Events wait in memory, a bounded number, until the writer
has no swipe to store: they never delay one.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import islice

from agent.clock.reading import ClockReading
from agent.door_event import Detail, DoorEvent, Severity
from agent.errors import OutboxError, OutboxReplacedError
from agent.log.line_limit import LineLimit
from agent.log.message_ids import ENDS, MessageId, fields_of

# Events of one kind and reader: an alarm that comes and goes must not fill the disk.
_WINDOW_S, _PER_WINDOW = 3600.0, 6
_MOST_WAITING = 200
_RETRY_S, _SOON_S = 60.0, 1.0
# The start and the stop are events with a reason; of the events themselves there are none.
_NO_EVENTS = frozenset(
    {
        *(MessageId.READY, MessageId.STOPPED, MessageId.GAVE_UP),
        *(MessageId.DOOR_EVENTS_HELD, MessageId.DOOR_EVENTS_SENT),
    }
)
# The clock's module imports no other module of the agent: its lines have no MESSAGE_ID.
_CLOCK_LOGGER, _CLOCK_KIND = "agent.clock.boot_history", "clock"
_DETAILS = {"SEQ": "seq", "CHANNEL": "channel", "ERROR_CODE": "error_code"}  # of the journal's fields
_READ_AT = "door_event_read_at"


class EventLog(logging.Handler):
    """Makes door events of log records, and keeps events until they are stored. For several threads."""

    def __init__(
        self, now: Callable[[], ClockReading], monotonic_s: Callable[[], float], *, wake: Callable[[], None]
    ) -> None:
        """`wake` is called when an event waits."""
        super().__init__(logging.INFO)
        self._now = now
        self._monotonic_s = monotonic_s
        self._wake = wake
        self._limit = LineLimit(monotonic_s, window_s=_WINDOW_S, lines=_PER_WINDOW)
        self._guard = threading.Lock()  # held for short steps in memory only
        self._active: set[tuple[str, tuple[str, str]]] = set()
        self._waiting: deque[DoorEvent] = deque()
        self._dropped = 0
        self._retry_at = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        """Add the event of a line, if it is one. The handler is locked: nothing here logs or waits."""
        if _kind(record) is not None and self._is_change(fields_of(record)):
            self._add_all(self._limit.admit(record, self._stamped))

    def release_due(self) -> None:
        """Add events that were held back because there were too many of their kind. Call it now and then."""
        self._add_all(self._limit.due())

    def add(self, event: DoorEvent) -> None:
        """Add an event; without room for it, it is counted in the next one."""
        with self._guard:
            if len(self._waiting) >= _MOST_WAITING:
                self._dropped += 1
                return
            if self._dropped:
                event = replace(event, details={**event.details, "events_dropped_before": self._dropped})
                self._dropped = 0
            self._waiting.append(event)
        self._wake()

    def store(self, keep: Callable[[Sequence[DoorEvent]], None]) -> float | None:
        """Store what waits. Returns the seconds until the next try, None if nothing waits any more.

        A failure is not logged: the writer logs that it cannot store swipes.
        """
        wait_s = self._retry_at - self._monotonic_s()
        with self._guard:
            events = list(islice(self._waiting, _MOST_WAITING))
        if not events or wait_s > 0:
            return wait_s if events else None
        try:
            keep(events)
        except OutboxReplacedError:
            return _SOON_S
        except (OutboxError, MemoryError):
            self._retry_at = self._monotonic_s() + _RETRY_S
            return _RETRY_S
        except Exception:
            self._remove_first(len(events))  # one of them causes it
            raise
        self._remove_first(len(events))
        return None

    def _remove_first(self, count: int) -> None:
        with self._guard:
            for _ in range(count):
                self._waiting.popleft()

    def _is_change(self, journal_fields: Mapping[str, str]) -> bool:
        """False for an alarm that is already raised, whose end was not logged yet."""
        message_id = journal_fields.get("MESSAGE_ID", "")
        about = journal_fields.get("READER", ""), journal_fields.get("CHANNEL", "")
        with self._guard:
            if message_id in ENDS:
                is_new = (message_id, about) not in self._active
                self._active.add((message_id, about))
                return is_new
            ended = {one for one in self._active if ENDS[one[0]] == message_id and one[1] == about}
            self._active -= ended
        return True

    def _stamped(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy of the record that has its time, and its text without arguments."""
        ready = copy.copy(record)
        ready.msg, ready.args = record.getMessage(), None
        setattr(ready, _READ_AT, self._now())
        return ready

    def _add_all(self, records: Sequence[logging.LogRecord]) -> None:
        for record in records:
            self.add(_event(record))


def _kind(record: logging.LogRecord) -> str | None:
    """The kind of the event that a line is; None for a line that is none."""
    message_id = fields_of(record).get("MESSAGE_ID")
    if message_id is None:
        return _CLOCK_KIND if record.name == _CLOCK_LOGGER else None
    known = MessageId(message_id)
    return known.name.lower() if known not in _NO_EVENTS else None


def _event(record: logging.LogRecord) -> DoorEvent:
    found = fields_of(record)
    details: dict[str, Detail] = {name: found[key] for key, name in _DETAILS.items() if key in found}
    return DoorEvent(
        kind=_kind(record) or "",
        severity=_severity(record.levelno),
        message=record.getMessage(),
        read_at=getattr(record, _READ_AT),
        reader_id=found.get("READER"),
        details=details,
    )


def _severity(level: int) -> Severity:
    if level >= logging.ERROR:
        return "error"
    return "warning" if level >= logging.WARNING else "info"
