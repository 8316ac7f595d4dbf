"""What a reader's words say about how it was installed: each finding is one line in the log."""

from __future__ import annotations

import logging

from agent.log.message_ids import MessageId, fields
from agent.readers.events import Noise, NoiseReason, Outcome, Status
from agent.settings import Keypad
from agent.swipe import CardRead

_log = logging.getLogger(__name__)

# Noise that reads as a card upside down comes by chance one time in four, not three times in a row.
SWAPPED_IN_A_ROW = 3


class WiringMonitor:
    """Sees every word of one reader, and never says what was in it."""

    def __init__(self, reader_id: str, *, keypad: Keypad) -> None:
        self._reader_id = reader_id
        self._keypad = keypad
        self._swapped = 0
        self._pad_suspected = False
        self._status: Status | None = None

    def observe_credential(self, outcome: Outcome) -> None:
        """Take what a word turned out to be."""
        if isinstance(outcome, Noise) and outcome.reason is NoiseReason.SWAPPED:
            self._swapped += 1
            if self._swapped == SWAPPED_IN_A_ROW:
                _log.warning(
                    "reader %s: D0/D1 swapped: its words are cards only when every bit is inverted; "
                    "exchange the two data wires",
                    self._reader_id,
                    extra=fields(MessageId.READER_FAULT, reader=self._reader_id),
                )
            return
        self._swapped = 0
        if isinstance(outcome, CardRead) and self._keypad == "none" and not self._pad_suspected:
            self._suspect_pad(outcome)

    def observe_status(self, status: Status) -> None:
        """Take what the reader says of itself; only a change is news."""
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
        if card.format == "H10301" and card.facility_code == 0:
            self._pad_suspected = True
            _log.warning(
                'reader %s: looks like a 26-bit PIN pad: if it has keys, set keypad = "card26", '
                "for every PIN is sent as a card until then",
                self._reader_id,
                extra=fields(MessageId.READER_FAULT, reader=self._reader_id),
            )
