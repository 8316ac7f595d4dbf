"""The serial log of an ESPHome device with one of the components wiegand, pn532, rc522 or rdm6300."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.events import CredentialKind, Key, Noise, NoiseReason, RawCredential, ReaderEvent
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.protocol import LineSettings, Option

_COLOUR = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")
# "[12:00:00][D][wiegand:095]: ...", the time only if the device has a clock. Only at the beginning of a
# line: other components log text of strangers, as the name of a Wi-Fi network in a scan.
_LOG_LINE = re.compile(rb"(?:\[[0-9:.]+\])?\[[A-Z]+\]\[([A-Za-z0-9_.]+):[0-9]+\](?:\[[^\]]*\])*: (.*)")
_RAW = re.compile(rb"received raw ([0-9]{1,3}) bits, value (?:0x)?([0-9A-Fa-f]+)")
_UNKNOWN = re.compile(rb"received unknown ([0-9]{1,3})-bit value: ([0-9A-Fa-f]+)")
_CHECKED = re.compile(rb"received ([0-9]{1,3})-bit tag: ([0-9]{1,20})")
_TAG = re.compile(rb"received tag ([0-9]{1,20})")
_KEY = re.compile(rb"received (?:[48]-bit )?key:? ([0-9]{1,3})")
_UID = re.compile(rb"Found new tag '([0-9A-F]{2}(?:[-.][0-9A-F]{2}){3,9})'")
_EM4100 = re.compile(rb"Found new tag with ID ([0-9]{1,10})")
# The log tags of the documentation's examples for on_raw, on_key and on_tag, and of logger.log.
_AUTOMATIONS = frozenset({b"RAW", b"KEY", b"TAG", b"main"})
_OWN = _AUTOMATIONS | {b"wiegand"}
_UID_COMPONENTS = frozenset({b"pn532", b"rc522", b"pn7150", b"pn7160"})
_INVALID = b"]: invalid parity"
# With colours, time and line number it has 60 bytes; a longer line is another message.
_LONGEST_PARITY_LINE_BYTES = 80

_CHECKED_BITS = (26, 34, 37)
_KEY_BYTE_BITS, _KEY_OF_BYTE = 8, 0xF  # the other half of the byte is the complement
_TAG_BITS = 35  # of the longest card with a tag, 37 bits; the message does not name its length
_ON_TAG_BITS = 64  # a width that no card format has
_EM4100_BITS = 32  # the component discards the first byte


class Esphome(LineProtocol):
    """ESPHome devices with the component wiegand, pn532, rc522 or rdm6300, over the serial log.

    One card may be logged up to three times: by on_raw, by the component itself, which then checks
    the parity, and by on_tag, in this order and depending on the configuration. The first one
    counts. The messages are those of the components and their documentation. Their numbers have no
    leading zeros, so that a lost digit cannot be detected: the check of a tag, and of bits with fewer
    digits than they need, is "none". A line after other text or static is noise.

    The name of a Wi-Fi network has up to 32 bytes, line ends among them: of the lines that are read as a
    card only one of on_tag fits into it. The rest of the scan's message then follows, which is no log
    line: such a card is discarded.
    """

    line = LineSettings(baudrate=115200, hold_reset_lines=True)
    silence_ms = 50  # what belongs to one card is logged in one go
    may_hold_pin = True
    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "on_tag": Option(
                "read: a line of on_tag is a card of 64 bits, for the message does not name its length; for "
                "devices that log nothing else",
                "ignore",
                allowed=("ignore", "read"),
            )
        }
    )

    def __init__(self, *, on_tag: str = "ignore") -> None:
        super().__init__()
        self._reads_on_tag = on_tag == "read"
        self._unchecked: tuple[ReaderEvent, ...] = ()  # a tag that the next line may refute
        self._is_of_on_tag = False  # what may refute it is any text, else "invalid parity"
        self._may_wait_bytes = 0  # how many a parity line may have, less those already discarded
        self._logged: tuple[int, int] | None = None  # the last number, and how many lines may repeat it

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._unchecked, self._logged = (), None

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The card or key in a log line; nothing for lines of other components."""
        held = self._release()
        line = _COLOUR.sub(b"", text).strip()
        # Also after noise: a tag whose parity may have failed is no card.
        if held and line.endswith(_INVALID) and len(text) <= self._may_wait_bytes:
            return NoiseReason.PARITY
        found = _LOG_LINE.fullmatch(line)
        if not found:
            kept = () if self._is_of_on_tag else held
            return (*kept, Noise(NoiseReason.SYNTAX)) if kept else NoiseReason.SYNTAX
        reading = NoiseReason.SYNTAX if cut else self._read_message(found[1], found[2])
        if not held:
            return reading
        return (*held, Noise(reading)) if isinstance(reading, NoiseReason) else (*held, *reading)

    def _read_message(self, component: bytes, message: bytes) -> Reading:
        if component in _OWN and b"]: received " in message:
            return NoiseReason.SYNTAX  # two lines in one: the end of the first was lost
        if component == b"wiegand":
            return self._read_wiegand(message)
        if component in _AUTOMATIONS:
            return self._read_automation(message)
        if component in _UID_COMPONENTS and (found := _UID.fullmatch(message)):
            uid = bytes.fromhex(re.sub(rb"[-.]", b"", found[1]).decode())
            return (RawCredential(8 * len(uid), int.from_bytes(uid, "big"), form=CredentialKind.ID),)
        if component == b"rdm6300" and (found := _EM4100.fullmatch(message)):
            number = int(found[1])
            if number >> _EM4100_BITS:
                return NoiseReason.LENGTH
            return (RawCredential(_EM4100_BITS, number, form=CredentialKind.ID, unpadded=True),)
        return ()

    def _read_automation(self, message: bytes) -> Reading:
        if found := _RAW.fullmatch(message):
            bits, value = int(found[1]), int(found[2], 16)
            return self._unless_repeated(3, _number(bits, value), _credential(bits, found[2]))
        if found := _TAG.fullmatch(message):
            reading = _tag(int(found[1])) if self._reads_on_tag else ()
            return self._until_refuted(self._unless_repeated(1, int(found[1]), reading), is_of_on_tag=True)
        return self._read_key(message)

    def _read_key(self, message: bytes) -> Reading:
        if found := _KEY.fullmatch(message):
            return self._unless_repeated(1, int(found[1]), (Key(),))
        return ()

    def _read_wiegand(self, message: bytes) -> Reading:
        if found := _UNKNOWN.fullmatch(message):
            bits, value = int(found[1]), int(found[2], 16)
            return self._unless_repeated(2, _number(bits, value), _credential(bits, found[2]))
        if found := _CHECKED.fullmatch(message):
            bits, number = int(found[1]), int(found[2])
            reading = self._unless_repeated(2, number, _checked(bits, number))
            return self._until_refuted(reading, is_of_on_tag=False)
        return self._read_key(message)

    def _until_refuted(self, reading: Reading, *, is_of_on_tag: bool) -> Reading:
        """Hold a tag until the next line, silence, or more bytes than a line that refutes it has."""
        if isinstance(reading, NoiseReason):
            return reading
        self._unchecked, self._is_of_on_tag = reading, is_of_on_tag
        self._may_wait_bytes = _LONGEST_PARITY_LINE_BYTES
        return ()

    def is_within_frame(self) -> bool:
        """True inside a line, or after a tag that the next line may refute."""
        return super().is_within_frame() or bool(self._unchecked)

    def _flush(self) -> list[ReaderEvent]:
        frames = [*self._unchecked, *super()._flush()]
        self._unchecked, self._logged = (), None
        return frames

    def _add_text(self, text: bytes) -> list[ReaderEvent]:
        return self._waiting(super()._add_text, text)

    def _add_static(self, static: bytes) -> list[ReaderEvent]:
        if self._is_of_on_tag:
            self._unchecked = ()
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


def _credential(bits: int, digits: bytes) -> Reading:
    value, missing = int(digits, 16), (bits + 3) // 4 - len(digits)
    if not bits or value >> bits or missing < 0:
        return NoiseReason.LENGTH
    return (RawCredential(bits, value, unpadded=missing > 0),)


def _checked(bits: int, number: int) -> Reading:
    if bits not in _CHECKED_BITS or number >> bits - 2:
        return NoiseReason.LENGTH
    return (RawCredential(bits - 2, number, form=CredentialKind.DATA, unpadded=True),)


def _tag(number: int) -> Reading:
    if number >> _TAG_BITS:
        return NoiseReason.LENGTH
    return (RawCredential(_ON_TAG_BITS, number, form=CredentialKind.IDENTIFIER, unpadded=True),)
