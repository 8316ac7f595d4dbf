"""EM-18 frames: ten hex digits of tag id and two of checksum, without delimiters."""

from __future__ import annotations

import re
from typing import ClassVar

from agent.readers.events import NoiseReason, RawCredential, ReaderEvent
from agent.readers.framing.em4100_id import ID_DIGITS, tag
from agent.readers.framing.noise import NoiseRun
from agent.readers.protocol import ListeningProtocol

_FRAME_DIGITS = ID_DIGITS + 2
# Digits outside a frame are held up to this many, because a frame may be at their end.
LONGEST_RUN_DIGITS = 256

_PIECES = re.compile(rb"(?P<digits>[0-9A-Fa-f]+)|(?P<end>[\r\n]+)|(?P<static>[^0-9A-Fa-f\r\n]+)")


class Em18(ListeningProtocol):
    """EM-18 and other 125 kHz modules that send twelve hex digits and no delimiter."""

    # There are at least 20 ms between two frames; USB adapters add up to 16 ms within one.
    repeats_while_held = True
    silence_ms: ClassVar[int] = 40

    def __init__(self) -> None:
        self._digits = bytearray()
        self._noise = NoiseRun()
        self._aligned = True  # the held digits begin where a frame may begin

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._digits.clear()
        self._noise.reset()
        self._aligned = True

    def _holds_data(self) -> bool:
        return bool(self._digits or self._noise)

    def _parse(self, data: bytes) -> list[ReaderEvent]:
        events: list[ReaderEvent] = []
        for piece in _PIECES.finditer(data):
            if piece.lastgroup == "digits":
                events += self._add_digits(piece[0])
            else:
                events += self._end_run()
                # Some modules end a frame with a line end.
                events += self._noise.add(piece[0]) if piece.lastgroup == "static" else self._noise.end()
        return events

    def _flush(self) -> list[ReaderEvent]:
        return [*self._end_run(), *self._noise.end()]

    def _add_digits(self, digits: bytes) -> list[ReaderEvent]:
        """The frames that follow each other from the beginning of the run."""
        self._digits += digits
        events: list[ReaderEvent] = []
        start = 0
        while self._aligned and len(self._digits) - start >= _FRAME_DIGITS:
            outcome = _read(self._digits[start : start + _FRAME_DIGITS])
            if isinstance(outcome, RawCredential):
                events += [*self._noise.end(), outcome]
                start += _FRAME_DIGITS
            else:
                self._aligned = False
        del self._digits[:start]
        if len(self._digits) > LONGEST_RUN_DIGITS:
            events += self._discard(len(self._digits) - LONGEST_RUN_DIGITS, NoiseReason.OVERSIZED)
        return events

    def _end_run(self) -> list[ReaderEvent]:
        """The frames at the end of a run that began with noise: the last twelve digits, and any twelve
        that precede a frame. Elsewhere in the run an 8-bit checksum would match too often by chance.
        """
        self._aligned = True
        credentials: list[RawCredential] = []
        start = len(self._digits)
        reason = NoiseReason.TRUNCATED
        while start >= _FRAME_DIGITS:
            outcome = _read(self._digits[start - _FRAME_DIGITS : start])
            if not isinstance(outcome, RawCredential):
                reason = outcome
                break
            credentials.append(outcome)
            start -= _FRAME_DIGITS
        if not credentials:
            return self._discard(start, reason)
        events = self._discard(start, NoiseReason.SYNTAX)
        self._digits.clear()
        return [*events, *self._noise.end(), *reversed(credentials)]

    def _discard(self, length: int, reason: NoiseReason) -> list[ReaderEvent]:
        discarded = bytes(self._digits[:length])
        del self._digits[:length]
        return [*self._noise.add(discarded, reason)]


def _read(digits: bytearray) -> RawCredential | NoiseReason:
    return tag(bytes(digits[:ID_DIGITS]), int(digits[ID_DIGITS:], 16))
