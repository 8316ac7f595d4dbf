"""Lines of text that name a word bit by bit: `26:2F657AE`, `W26:2F657AE`, or its zeros and ones."""

from __future__ import annotations

import re

from agent.readers.protocol import LineSettings
from agent.readers.protocols.noise import NoiseRun
from agent.swipe import Frame, Reason, Word

# The longest Wiegand words in the field are the 200 bits of US government cards.
LONGEST_WORD_BITS = 256
# Zeros and ones are the longest way to write a word.
LONGEST_LINE_BYTES = LONGEST_WORD_BITS

_PIECES = re.compile(
    rb"(?P<text>[0-9A-Fa-fW:]+)"
    rb"|(?P<end>[\r\n]+)"
    rb"|(?P<prose>[ -/;-@G-VX-`g-~]+)"  # printable, but no part of a word
    rb"|(?P<static>[^ -~\r\n]+)"  # what an electrical disturbance looks like
)
_COUNTED = re.compile(rb"W?([1-9][0-9]{0,2}):([0-9A-Fa-f]+)")
_BINARY = re.compile(rb"[01]+")


class Bits:
    """Wiegand bridges that print words as text (Arduino, ESP and the like)."""

    line = LineSettings()
    silence_ms = 100  # bridges print a line in one go

    def __init__(self) -> None:
        self._text = bytearray()
        self._noise = NoiseRun()
        self._cut = False  # static came before: the line's first digits may be missing
        self._spoilt = False  # prose or too long: no word until this line ends

    @property
    def partial(self) -> bool:
        """True inside a line, also when what it held has already gone out as noise."""
        return bool(self._text or self._noise or self._cut or self._spoilt)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they came; return the frames they complete, in order."""
        frames: list[Frame] = []
        for piece in _PIECES.finditer(data):
            if piece.lastgroup == "text":
                frames += self._add_text(piece[0])
            elif piece.lastgroup == "end":
                frames += self._end_line()
            else:
                frames += self._add_junk(piece[0], spoils=piece.lastgroup == "prose")
        return frames

    def silence(self) -> list[Frame]:
        """A line without its end is truncated: its last digits may be missing."""
        frames: list[Frame] = [*self._noise.add(bytes(self._text), Reason.TRUNCATED), *self._noise.end()]
        self.reset()
        return frames

    def reset(self) -> None:
        """Forget what is held: the port was opened anew."""
        self._text.clear()
        self._noise.reset()
        self._cut = self._spoilt = False

    def _add_text(self, text: bytes) -> list[Frame]:
        if self._spoilt:
            return [*self._noise.add(text)]
        self._text += text
        if len(self._text) <= LONGEST_LINE_BYTES:
            return []
        self._spoilt = True
        return self._discard(Reason.OVERSIZED)

    def _add_junk(self, junk: bytes, *, spoils: bool) -> list[Frame]:
        """Prose makes the whole line somebody's message ("up 40:59"); after static, which has no
        meaning, a line may begin.
        """
        frames = self._discard(Reason.SYNTAX) if self._text else []
        self._cut, self._spoilt = not spoils, spoils
        return [*frames, *self._noise.add(junk, Reason.SYNTAX if spoils else None)]

    def _end_line(self) -> list[Frame]:
        frames: list[Frame] = []
        if self._text:  # none between CR and LF
            outcome = _read(bytes(self._text), cut=self._cut)
            if isinstance(outcome, Word):
                self._text.clear()
                frames = [*self._noise.end(), outcome]
            else:
                frames = self._discard(outcome)
        self._cut = self._spoilt = False
        return [*frames, *self._noise.end()]

    def _discard(self, reason: Reason) -> list[Frame]:
        text = bytes(self._text)
        self._text.clear()
        return [*self._noise.add(text, reason)]


def _read(text: bytes, *, cut: bool) -> Word | Reason:
    """The word a line names, or why it names none. A cut line must say its own length: zeros
    and ones that lost their beginning would be a shorter card.
    """
    counted = _COUNTED.fullmatch(text)
    if counted:
        bits, digits = int(counted[1]), counted[2]
        value = int(digits, 16)
        if bits > LONGEST_WORD_BITS or len(digits) > (bits + 3) // 4 or value >> bits:
            return Reason.LENGTH
        return Word(bits, value)
    if _BINARY.fullmatch(text) and not cut:
        return Word(len(text), int(text, 2))
    return Reason.SYNTAX
