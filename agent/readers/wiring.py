"""Detects wiring and installation faults of a reader; each one is one log line."""

from __future__ import annotations

import logging

from agent.log.message_ids import MessageId, fields
from agent.readers.events import Noise, NoiseReason, Outcome, Status
from agent.settings import Keypad
from agent.swipe import CardRead

# The words in which a keypad sends a PIN, with the bits that hold it and those after them.
_PIN_WORDS = {24: (24, 0), 26: (24, 1), 32: (32, 0), 34: (32, 1)}
_SMALL_PINS_END = 10**6

_log = logging.getLogger(__name__)

# One random credential in four is a card when inverted; three in a row are not chance.
SWAPPED_IN_A_ROW = 3


class WiringMonitor:
    """Observes the credentials of one reader; no log line contains their bits."""

    def __init__(self, reader_id: str, *, keypad: Keypad) -> None:
        self._reader_id = reader_id
        self._keypad = keypad
        self._swapped = 0
        self._pad_suspected = False
        self._status: Status | None = None

    def observe_credential(self, outcome: Outcome) -> None:
        """Observe the outcome of one credential."""
        if isinstance(outcome, Noise) and outcome.reason is NoiseReason.SWAPPED:
            self._swapped += 1
            if self._swapped == SWAPPED_IN_A_ROW:
                _log.warning(
                    "reader %s: D0/D1 swapped: its data are cards only when every bit is inverted; "
                    "exchange the two data wires",
                    self._reader_id,
                    extra=fields(MessageId.READER_FAULT, reader=self._reader_id),
                )
            return
        self._swapped = 0
        if isinstance(outcome, CardRead) and self._keypad == "unknown" and not self._pad_suspected:
            self._suspect_pad(outcome)

    def observe_status(self, status: Status) -> None:
        """Observe the state that a reader reports; only a change is logged."""
        if status == self._status:
            return
        self._status = status
        _log.log(
            logging.INFO if status.ok else logging.WARNING,
            "reader %s: %s",
            self._reader_id,
            status.text,
            extra=fields(None if status.ok else MessageId.READER_FAULT, reader=self._reader_id),
        )

    def _suspect_pad(self, card: CardRead) -> None:
        if _may_be_pin(card):
            self._pad_suspected = True
            _log.warning(
                "reader %s: may be a 26-bit PIN pad, or one of another kind; PINs are sent as cards until "
                'keypad is set: to the kind of its keys (README, "PINs"), or to "none"',
                self._reader_id,
                extra=fields(MessageId.READER_FAULT, reader=self._reader_id),
            )


def _may_be_pin(card: CardRead) -> bool:
    """True for the number of a PIN of at most six digits, and for decimal digits of four bits each."""
    if card.bits not in _PIN_WORDS:
        return False
    number_bits, parity_bits = _PIN_WORDS[card.bits]
    number = int(card.raw, 16) >> parity_bits & (1 << number_bits) - 1
    return number < _SMALL_PINS_END or f"{number:X}".isdecimal()
