"""The serial log of an ESPHome device with the component `wiegand`."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent.readers.events import CredentialKind, Key, Noise, NoiseReason, RawCredential, ReaderEvent
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.protocol import LineSettings
from agent.swipe import CardCheck

_COLOUR = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
# "[12:00:00][D][wiegand:095]: ...", the time only if the device has a clock.
# The last one in a line: a line before it has lost its end.
_LOG_LINE = re.compile(rb".*\[[A-Z]+\](?:\[[^\]]*\])+: (.*?)\s*")
_RAW = re.compile(rb"received raw ([0-9]{1,3}) bits, value (?:0x)?([0-9A-Fa-f]+)")
_UNKNOWN = re.compile(rb"received unknown ([0-9]{1,3})-bit value: ([0-9A-Fa-f]+)")
_CHECKED = re.compile(rb"received ([0-9]{1,3})-bit tag: ([0-9]{1,20})")
_TAG = re.compile(rb"received tag ([0-9]{1,20})")
_KEY = re.compile(rb"received key ([0-9]{1,3})")
_INVALID = b"invalid parity"
# With colours, time and line number it has 60 bytes; a longer line is another message.
_LONGEST_PARITY_LINE_BYTES = 80

_CHECKED_BITS = (26, 34, 37)
_KEY_BYTE_BITS, _KEY_OF_BYTE = 8, 0xF  # the other half of the byte is the complement
_TAG_BITS = 35  # of the longest card with a tag, 37 bits; the message does not name its length


class Esphome(LineProtocol):
    """ESPHome devices with the component wiegand, over the serial log.

    One card may be logged up to three times: by on_raw, by the component itself, which then checks
    the parity, and by on_tag, in this order and depending on the configuration. The first one
    counts. The messages are those of the component and its documentation.
    """

    line = LineSettings(baudrate=115200, hold_reset_lines=True)
    silence_ms = 50  # what belongs to one card is logged in one go
    may_hold_pin = True

    def __init__(self) -> None:
        super().__init__()
        self._unchecked: tuple[ReaderEvent, ...] = ()  # a tag that "invalid parity" may still follow
        self._may_wait_bytes = 0  # how many a parity line may have, less those already discarded
        self._logged: tuple[int, int] | None = None  # the last number, and how many lines may repeat it

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._unchecked, self._logged = (), None

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the brackets detect a cut line
        """The card or key in a log line; nothing for lines of other components."""
        held = self._release()
        found = _LOG_LINE.fullmatch(_COLOUR.sub(b"", text))
        if not found:
            return (*held, Noise(NoiseReason.SYNTAX)) if held else NoiseReason.SYNTAX
        message = found[1]
        if held and message == _INVALID and len(text) <= self._may_wait_bytes:
            return NoiseReason.PARITY
        reading = self._read_message(message)
        if not held:
            return reading
        return (*held, Noise(reading)) if isinstance(reading, NoiseReason) else (*held, *reading)

    def _read_message(self, message: bytes) -> Reading:
        if found := _RAW.fullmatch(message):
            bits, value = int(found[1]), int(found[2], 16)
            return self._unless_repeated(3, _number(bits, value), _credential(bits, value))
        if found := _UNKNOWN.fullmatch(message):
            bits, value = int(found[1]), int(found[2], 16)
            return self._unless_repeated(2, _number(bits, value), _credential(bits, value))
        if found := _CHECKED.fullmatch(message):
            bits, number = int(found[1]), int(found[2])
            reading = self._unless_repeated(2, number, _checked(bits, number))
            if isinstance(reading, tuple):
                self._unchecked, reading = reading, ()
                self._may_wait_bytes = _LONGEST_PARITY_LINE_BYTES
            return reading
        if found := _TAG.fullmatch(message):
            return self._unless_repeated(1, int(found[1]), _tag(int(found[1])))
        if found := _KEY.fullmatch(message):
            return self._unless_repeated(1, int(found[1]), (Key(),))
        return ()

    def _holds_data(self) -> bool:
        """True inside a line, or after a tag whose parity is not known yet."""
        return super()._holds_data() or bool(self._unchecked)

    def _flush(self) -> list[ReaderEvent]:
        frames = [*self._unchecked, *super()._flush()]
        self._unchecked, self._logged = (), None
        return frames

    def _add_text(self, text: bytes) -> list[ReaderEvent]:
        return self._waiting(super()._add_text, text)

    def _add_static(self, static: bytes) -> list[ReaderEvent]:
        return self._waiting(super()._add_static, static)

    def _waiting(self, add: Callable[[bytes], list[ReaderEvent]], piece: bytes) -> list[ReaderEvent]:
        """Add a piece of a line; the tag is released once the line is too long for a parity message."""
        if not self._unchecked:
            return add(piece)
        room = self._may_wait_bytes - len(self._text)
        in_time, late = piece[:room], piece[room:]
        line_bytes = len(self._text) + len(in_time)
        frames = add(in_time) if in_time else []
        self._may_wait_bytes -= line_bytes - len(self._text)
        return [*frames, *self._release(), *add(late)] if late else frames

    def _release(self) -> tuple[ReaderEvent, ...]:
        held, self._unchecked = self._unchecked, ()
        return held

    def _unless_repeated(self, order: int, number: int, reading: Reading) -> Reading:
        """The reading, unless the line repeats the number of the previous one."""
        repeats = self._logged is not None and self._logged[0] == number and order < self._logged[1]
        self._logged = (number, order)
        return () if repeats else reading


def _number(bits: int, value: int) -> int:
    """The number that the component logs for these bits in the following lines."""
    if bits in _CHECKED_BITS:
        return value >> 1 & (1 << bits - 2) - 1
    return value & _KEY_OF_BYTE if bits == _KEY_BYTE_BITS else value


def _credential(bits: int, value: int) -> Reading:
    return NoiseReason.LENGTH if not bits or value >> bits else (RawCredential(bits, value),)


def _checked(bits: int, number: int) -> Reading:
    if bits not in _CHECKED_BITS or number >> bits - 2:
        return NoiseReason.LENGTH
    return (RawCredential(bits - 2, number, CardCheck.UPSTREAM, CredentialKind.DATA),)


def _tag(number: int) -> Reading:
    return (
        NoiseReason.LENGTH
        if number >> _TAG_BITS
        else (RawCredential(_TAG_BITS, number, CardCheck.NONE, CredentialKind.ID),)
    )
