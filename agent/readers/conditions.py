"""The conditions of a two-way reader: offline, tampered, without power. Each change is one log line."""

from __future__ import annotations

import logging
from typing import NamedTuple

from agent.log.message_ids import MessageId, fields
from agent.readers.events import Condition, ConditionChange

_log = logging.getLogger(__name__)


class _Texts(NamedTuple):
    """The words for one condition: what is wrong, what to do, and the line when it ends."""

    begins: str
    next: str
    begin_id: MessageId
    ends: str
    end_id: MessageId


_TEXTS = {
    Condition.OFFLINE: _Texts(
        "offline: it does not answer",
        "check its power, the two data wires, its address and baudrate",
        MessageId.READER_OFFLINE,
        "online",
        MessageId.READER_ONLINE,
    ),
    Condition.KEY_REFUSED: _Texts(
        "it answers, but there is no encrypted session: it does not have the stored key, or none is stored "
        "and it requires one; it was reset, or another one was put in its place",
        "examine it, then give it a new key: sudo badge-agent setup",
        MessageId.READER_KEY_REFUSED,
        "its key is accepted",
        MessageId.READER_SECURED,
    ),
    Condition.NO_KEY: _Texts(
        "it is not asked, because no key is stored for it",
        'make one: sudo badge-agent setup; or set secure = "none" in its options',
        MessageId.READER_KEY_REFUSED,
        "there is a key for it",
        MessageId.READER_SECURED,
    ),
    Condition.TAMPER: _Texts(
        "tamper: it was opened or taken off its wall",
        "examine it",
        MessageId.READER_TAMPERED,
        "tamper ended",
        MessageId.READER_TAMPER_ENDED,
    ),
    Condition.POWER: _Texts(
        "it reports a power failure",
        "check its power supply",
        MessageId.READER_POWER_FAILED,
        "its power is restored",
        MessageId.READER_POWER_RESTORED,
    ),
    Condition.HEAD_TAMPER: _Texts(
        "tamper: its reader head was opened or taken off its wall",
        "examine it",
        MessageId.READER_TAMPERED,
        "tamper of its reader head ended",
        MessageId.READER_TAMPER_ENDED,
    ),
    Condition.HEAD_MISSING: _Texts(
        "its reader head is not connected",
        "check the cable of the reader head",
        MessageId.READER_OFFLINE,
        "its reader head is connected",
        MessageId.READER_ONLINE,
    ),
}


def condition_texts(condition: Condition) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    texts = _TEXTS[condition]
    return texts.begins, texts.next


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
            self._log(logging.WARNING, f"{texts.begins}; {texts.next}", texts.begin_id)
        elif not change.active and (was_active or self._is_first_answer(change)):
            self.active -= {change.condition}
            self._log(logging.INFO, texts.ends, texts.end_id)
        self._has_answered |= change == _ANSWERS

    def _is_first_answer(self, change: ConditionChange) -> bool:
        return change == _ANSWERS and not self._has_answered

    def _log(self, level: int, text: str, event: MessageId) -> None:
        _log.log(level, "reader %s: %s", self._reader_id, text, extra=fields(event, reader=self._reader_id))


_ANSWERS = ConditionChange(Condition.OFFLINE, active=False)
