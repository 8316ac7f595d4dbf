"""The framer for protocols of text lines: splits a stream into lines, and separates noise."""

from __future__ import annotations

import re
from abc import abstractmethod
from typing import ClassVar

from agent.readers.events import Noise, NoiseReason, ReaderEvent
from agent.readers.framing.noise import NoiseRun
from agent.readers.protocol import ListeningProtocol

# The longest meaningful line, with a margin: a bridge's error message has 90 bytes, a log line
# with colours 120, the longest card in the field in binary digits 200.
LONGEST_LINE_BYTES = 256
# The most digits of a PIN at HID and IDTECK keypads.
LONGEST_PIN_DIGITS = 8

Reading = tuple[ReaderEvent, ...] | NoiseReason
"""The result of parsing a line: events, none for a line without meaning, or the reason why it is noise."""

# Printable ASCII, tab, and the escape that begins a colour.
PRINTABLE = bytes([0x09, 0x1B, *range(0x20, 0x7F)])


class LineProtocol(ListeningProtocol):
    """A wire protocol of lines that end in CR, LF or both.

    A subclass parses a line, and declares the characters of its lines: all others are static,
    printable or not. A line that begins after static is `cut`: its first characters may be
    missing, so it is valid only if its form shows where it begins or how long it is.
    """

    may_hold_pin: ClassVar[bool] = False
    characters: ClassVar[bytes] = PRINTABLE

    _clean: ClassVar[bytes]
    _pieces: ClassVar[re.Pattern[bytes]]

    def __init_subclass__(cls) -> None:
        """Compile the patterns once per protocol."""
        cls._clean = cls.characters + b"\r\n"
        text, static = (b"[%s%s]+" % (sign, re.escape(cls.characters)) for sign in (b"", b"^\r\n"))
        cls._pieces = re.compile(b"(?P<text>%s)|(?P<end>[\r\n]+)|(?P<static>%s)" % (text, static))

    def __init__(self) -> None:
        self._text = bytearray()
        self._noise = NoiseRun(secret=self.may_hold_pin)
        self._cut = False  # static preceded: the line's first characters may be missing

    @abstractmethod
    def read(self, text: bytes, *, cut: bool) -> Reading:
        """Parse a line of text, without its line end, never empty."""

    def read_unfinished(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - for subclasses
        """Parse a line that silence ended: its last characters may be missing."""
        return NoiseReason.TRUNCATED

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._text.clear()
        self._noise.reset()
        self._cut = False

    def _holds_data(self) -> bool:
        """True inside a line, also when the bytes it held have already been returned as noise."""
        return bool(self._text or self._noise or self._cut)

    def _parse(self, data: bytes) -> list[ReaderEvent]:
        if not (self._noise or self._cut or data.translate(None, self._clean)):
            return self._parse_clean(self._take_text() + data)
        events: list[ReaderEvent] = []
        for piece in self._pieces.finditer(data):
            if piece.lastgroup == "text":
                events += self._add_text(piece[0])
            elif piece.lastgroup == "end":
                events += self._end_line()
            else:
                events += self._add_static(piece[0])
        return events

    def _flush(self) -> list[ReaderEvent]:
        events: list[ReaderEvent] = []
        if self._text:
            events += self._close(self.read_unfinished(bytes(self._text), cut=self._cut))
        events += self._noise.end()
        self._cut = False
        return events

    def _parse_clean(self, data: bytes) -> list[ReaderEvent]:
        """As _parse(), for printable text while no noise is held: the usual case, mostly whole lines."""
        events: list[ReaderEvent] = []
        *lines, unfinished = data.replace(b"\r", b"\n").split(b"\n")
        for text in filter(None, lines):
            if len(text) > LONGEST_LINE_BYTES:
                events += self._add_text(text)
                events += self._end_line()
                continue
            reading = self.read(text, cut=False)
            events += reading if isinstance(reading, tuple) else self._noise.alone(text, reading)
        events += self._add_text(unfinished)
        return events

    def _add_text(self, text: bytes) -> list[ReaderEvent]:
        self._text += text
        excess = len(self._text) - LONGEST_LINE_BYTES
        if excess <= 0:
            return []
        # Noise without a line end: the end of the text is kept, because it may be a frame.
        self._cut = True
        return self._discard(NoiseReason.OVERSIZED, excess)

    def _add_static(self, static: bytes) -> list[ReaderEvent]:
        events = self._discard(NoiseReason.SYNTAX)
        self._cut = True
        return [*events, *self._noise.add(static)]

    def _end_line(self) -> list[ReaderEvent]:
        events: list[ReaderEvent] = []
        if self._text:  # none between CR and LF
            events += self._close(self.read(bytes(self._text), cut=self._cut))
        self._cut = False
        return [*events, *self._noise.end()]

    def _close(self, reading: Reading) -> list[ReaderEvent]:
        if isinstance(reading, NoiseReason):
            return self._discard(reading)
        self._text.clear()
        return [*self._noise.end(), *reading]

    def _discard(self, reason: NoiseReason, length: int | None = None) -> list[ReaderEvent]:
        return [*self._noise.add(self._take_text(length), reason)]

    def _take_text(self, length: int | None = None) -> bytes:
        text = bytes(self._text[:length])
        del self._text[:length]
        return text


def after_noise(noise: bytes, reading: Reading) -> Reading:
    """The result for a line with leading noise, if any: a Noise, then the events."""
    return (Noise(NoiseReason.SYNTAX, noise), *reading) if noise and isinstance(reading, tuple) else reading
