"""What a two-way reader reports of itself: offline, tampered, without power; each change is one log line."""

from __future__ import annotations

import logging
from typing import NamedTuple

from agent.log.message_ids import MessageId, fields
from agent.readers.events import Condition, ConditionChange

_log = logging.getLogger(__name__)


class _Texts(NamedTuple):
    """The log lines of one condition: when it begins, with the next step, and when it ends."""

    begins: str
    begin_id: MessageId
    ends: str
    end_id: MessageId


_TEXTS = {
    Condition.OFFLINE: _Texts(
        "offline: it does not answer; check its power, the two data wires, address and baudrate",
        MessageId.READER_OFFLINE,
        "online",
        MessageId.READER_ONLINE,
    ),
    Condition.KEY_REFUSED: _Texts(
        "it answers, but there is no encrypted session with the stored key: another reader was put in its "
        "place, or it was reset; examine it, then give it a new key: sudo badge-agent setup",
        MessageId.READER_KEY_REFUSED,
        "its key is accepted",
        MessageId.READER_SECURED,
    ),
    Condition.TAMPER: _Texts(
        "tamper: it was opened or taken off its wall",
        MessageId.READER_TAMPERED,
        "tamper ended",
        MessageId.READER_TAMPER_ENDED,
    ),
    Condition.POWER: _Texts(
        "it reports a power failure",
        MessageId.READER_POWER_FAILED,
        "its power is restored",
        MessageId.READER_POWER_RESTORED,
    ),
    Condition.HEAD_TAMPER: _Texts(
        "tamper: its reader head was opened or taken off its wall",
        MessageId.READER_TAMPERED,
        "tamper of its reader head ended",
        MessageId.READER_TAMPER_ENDED,
    ),
    Condition.HEAD_MISSING: _Texts(
        "its reader head is not connected",
        MessageId.READER_OFFLINE,
        "its reader head is connected",
        MessageId.READER_ONLINE,
    ),
    Condition.NO_KEY: _Texts(
        'it is not asked: no key is stored for it; make one: sudo badge-agent setup, or set secure = "none"',
        MessageId.READER_KEY_REFUSED,
        "there is a key for it",
        MessageId.READER_SECURED,
    ),
}


class ConditionMonitor:
    """The present conditions of one reader. Written by its thread only; `active` is read by any."""

    def __init__(self, reader_id: str) -> None:
        self._reader_id = reader_id
        self.active: frozenset[Condition] = frozenset()
        self._has_answered = False

    def reset(self) -> None:
        """The port was reopened: nothing is known, and nothing is logged."""
        self.active = frozenset()
        self._has_answered = False

    def observe(self, change: ConditionChange) -> None:
        """Take a report, which may be of the present state."""
        was_active = change.condition in self.active
        texts = _TEXTS[change.condition]
        if change.active and not was_active:
            self.active |= {change.condition}
            self._log(logging.WARNING, texts.begins, texts.begin_id)
        elif not change.active and (was_active or self._is_first_answer(change)):
            self.active -= {change.condition}
            self._log(logging.INFO, texts.ends, texts.end_id)
        self._has_answered |= change == _ANSWERS

    def _is_first_answer(self, change: ConditionChange) -> bool:
        return change == _ANSWERS and not self._has_answered

    def _log(self, level: int, text: str, event: MessageId) -> None:
        _log.log(level, "reader %s: %s", self._reader_id, text, extra=fields(event, reader=self._reader_id))


_ANSWERS = ConditionChange(Condition.OFFLINE, active=False)
