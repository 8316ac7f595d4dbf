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

# Around a line these are framing: readers and sketches send STX, ETX, NUL or spaces there.
PADDING = b"\x00\x02\x03 \t"
_STX, _ETX = 0x02, 0x03
# More than these are a data line that is held low, or another reader.
LONGEST_PADDING_BYTES = 16

# Printable ASCII, tab, and the escape that begins a colour.
PRINTABLE = bytes([0x09, 0x1B, *range(0x20, 0x7F)])


class LineProtocol(ListeningProtocol):
    """A wire protocol of lines that end in CR, LF or both, or begin with STX and end in ETX.

    Padding around a line is framing and no noise. A subclass parses a line, and declares the
    characters of its lines: all others are static, printable or not. A line that begins after static
    is `cut`: its first characters may be missing, so it is valid only if its form shows where it
    begins or how long it is.
    """

    may_hold_pin: ClassVar[bool] = False
    characters: ClassVar[bytes] = PRINTABLE

    _clean: ClassVar[bytes]
    _around: ClassVar[bytes]
    _pieces: ClassVar[re.Pattern[bytes]]

    def __init_subclass__(cls) -> None:
        """Compile the patterns once per protocol."""
        cls._clean = cls.characters + b"\r\n"
        padding = PADDING.translate(None, cls.characters)
        cls._around = PADDING if padding else b""  # where every byte has a meaning there is none
        text = re.escape(cls.characters)
        known = re.escape(padding + b"\r\n") + text
        cls._pieces = re.compile(
            b"(?P<text>[%s]+)|(?P<end>[\r\n]+)|(?P<static>[^%s]+)" % (text, known)
            + (b"|(?P<padding>[%s]+)" % re.escape(padding) if padding else b"")
        )

    def __init__(self) -> None:
        self._text = bytearray()
        self._padding = bytearray()  # after the text: the line ends, or the padding is static
        self._leading = 0  # bytes of padding since the last line
        self._framed = False  # STX began the line, so that ETX ends it
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
        self._begin_line()

    def _begin_line(self) -> None:
        self._padding.clear()
        self._leading, self._framed, self._cut = 0, False, False

    def is_within_frame(self) -> bool:
        """True inside a line, also when the bytes it held have already been returned as noise."""
        return bool(self._text or self._noise or self._cut)

    def _parse(self, data: bytes) -> list[ReaderEvent]:
        if not (self._noise or self._cut or self._padding or self._framed) and not data.translate(
            None, self._clean
        ):
            return self._parse_clean(self._take_text() + data)
        events: list[ReaderEvent] = []
        for piece in self._pieces.finditer(data):
            if piece.lastgroup == "end":
                events += self._end_line()
            elif piece.lastgroup == "padding":
                events += self._add_padding(piece[0])
            else:
                if self._padding:  # inside the line, and so static
                    events += self._add_static(self._take_padding())
                add = self._add_text if piece.lastgroup == "text" else self._add_static
                events += add(piece[0])
        return events

    def _flush(self) -> list[ReaderEvent]:
        events: list[ReaderEvent] = []
        if self._text:
            text = bytes(self._text).strip(self._around)
            events += self._close(self.read_unfinished(text, cut=self._cut) if text else ())
        events += self._noise.end()
        self._begin_line()
        return events

    def _add_padding(self, padding: bytes) -> list[ReaderEvent]:
        events: list[ReaderEvent] = []
        for place, byte in enumerate(padding):
            if self._framed and byte == _ETX:
                events += self._end_line()
            elif self._text:
                self._padding.append(byte)
                if len(self._padding) > LONGEST_PADDING_BYTES:
                    events += self._add_static(self._take_padding())
            elif self._cut or self._noise or self._leading == LONGEST_PADDING_BYTES:
                if not self._framed:
                    return [*events, *self._add_static(padding[place:])]
                events += self._add_static(padding[place : place + 1])
            else:
                self._leading += 1
                self._framed = self._framed or byte == _STX
        return events

    def _take_padding(self) -> bytes:
        padding = bytes(self._padding)
        self._padding.clear()
        return padding

    def _parse_clean(self, data: bytes) -> list[ReaderEvent]:
        """As _parse(), for printable text while no noise is held: the usual case, mostly whole lines."""
        events: list[ReaderEvent] = []
        *lines, unfinished = data.replace(b"\r", b"\n").split(b"\n")
        if lines:
            self._leading = 0
        read, around = self.read, self._around
        for line in filter(None, lines):
            if len(line) > LONGEST_LINE_BYTES:
                events += self._add_text(line)
                events += self._end_line()
                continue
            text = line.strip(around)
            if not text:
                continue
            reading = read(text, cut=False)
            events += reading if isinstance(reading, tuple) else self._noise.alone(line, reading)
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
            text = bytes(self._text).strip(self._around)
            events += self._close(self.read(text, cut=self._cut) if text else ())
        self._begin_line()
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
