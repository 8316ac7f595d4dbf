"""EM-18 frames: ten hex digits of tag id and two of checksum, without delimiters."""

from __future__ import annotations

import re
from typing import ClassVar

from agent.readers.events import NoiseReason, ReaderEvent
from agent.readers.framing.em4100_id import ID_DIGITS, tag
from agent.readers.framing.noise import NoiseRun
from agent.readers.protocol import ListeningProtocol

_FRAME_DIGITS = ID_DIGITS + 2
# The frames that the kernel keeps in its 4,096 bytes while nothing reads the port: a run without a gap.
LONGEST_RUN_DIGITS = 4_096 // _FRAME_DIGITS * _FRAME_DIGITS

_PIECES = re.compile(rb"(?P<digits>[0-9A-Fa-f]+)|(?P<end>[\r\n]+)|(?P<static>[^0-9A-Fa-f\r\n]+)")


class Em18(ListeningProtocol):
    """EM-18 and other 125 kHz modules that send twelve hex digits and no delimiter.

    Every rotation of the twelve digits has a valid checksum, so that only a gap or a line end shows
    where a frame begins and ends. Digits between two gaps are frames if their number is a multiple of
    twelve and every frame is valid; otherwise a digit was lost, added or altered, or the port was
    opened within a frame, and all of them are noise. A card is returned when the gap ends its run.
    """

    # There are at least 20 ms between two frames; USB adapters add up to 16 ms within one.
    repeats_while_held = True
    silence_ms: ClassVar[int] = 20

    def __init__(self) -> None:
        self._digits = bytearray()
        self._noise = NoiseRun()
        self._is_cut = False  # the run was too long: its first digits are discarded

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._digits.clear()
        self._noise.reset()
        self._is_cut = False

    def is_within_frame(self) -> bool:
        """True while bytes of an unfinished frame, or of noise, are held."""
        return bool(self._digits or self._noise or self._is_cut)

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
        self._digits += digits
        if len(self._digits) <= LONGEST_RUN_DIGITS:
            return []
        # A held card without gaps: the repeated frame is dropped, which does not change the number
        # of digits modulo twelve. Not of a run that is cut: all of it is noise.
        while not self._is_cut and len(self._digits) > LONGEST_RUN_DIGITS and self._repeats():
            del self._digits[:_FRAME_DIGITS]
        if len(self._digits) <= LONGEST_RUN_DIGITS:
            return []
        self._is_cut = True
        return self._discard(len(self._digits) - LONGEST_RUN_DIGITS, NoiseReason.OVERSIZED)

    def _repeats(self) -> bool:
        return self._digits[:_FRAME_DIGITS] == self._digits[_FRAME_DIGITS : 2 * _FRAME_DIGITS]

    def _end_run(self) -> list[ReaderEvent]:
        """The frames of a run, or noise."""
        is_cut, self._is_cut = self._is_cut, False
        if not self._digits:
            return []
        if is_cut or len(self._digits) % _FRAME_DIGITS:
            return self._discard(len(self._digits), NoiseReason.TRUNCATED)
        digits = bytes(self._digits)
        credentials: list[ReaderEvent] = []
        for start in range(0, len(digits), _FRAME_DIGITS):
            id_end = start + ID_DIGITS
            outcome = tag(digits[start:id_end], int(digits[id_end : start + _FRAME_DIGITS], 16))
            if isinstance(outcome, NoiseReason):
                return self._discard(len(digits), outcome)
            credentials.append(outcome)
        self._digits.clear()
        return [*self._noise.end(), *credentials]

    def _discard(self, length: int, reason: NoiseReason) -> list[ReaderEvent]:
        discarded = bytes(self._digits[:length])
        del self._digits[:length]
        return [*self._noise.add(discarded, reason)]
