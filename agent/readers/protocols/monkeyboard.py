"""Lines printed by sketches with the Wiegand library by Monkeyboard."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.events import CredentialKind, Key, NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.framing.reader_name import names_reader
from agent.readers.protocol import LineSettings, Option
from agent.swipe import CardCheck

# Between the hex number and the type some sketches print more numbers than DECIMAL.
_LINE = re.compile(
    rb"(.*?)HEX ?= ?([0-9A-F]{1,16}), ?((?:[A-Z]+ ?= ?[0-9]{1,64}, ?){1,3})Type ?W([0-9]{1,2})", re.IGNORECASE
)
_NUMBER = re.compile(rb"[0-9]+")
_BINARY_DIGITS = frozenset(b"01")
_KEY_TYPES = (4, 8)
# The library removes the parity bits without a check, and prints no leading zeros.
_STRIPPED_TYPES = (26, 34)
_WHOLE_TYPES = (24, 32)


class Monkeyboard(LineProtocol):
    """Arduino sketches with the Wiegand library by Monkeyboard.

    The library checks no parity. A digit that the serial line loses or alters is detected, because a
    line has its number at least twice; an altered type is not.
    """

    line = LineSettings(hold_reset_lines=True)
    may_hold_pin = True
    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "select": Option(
                "with several readers on one board: the name in front of HEX; lines of others are ignored",
                high=40,
            )
        }
    )

    def __init__(self, *, select: str = "") -> None:
        super().__init__()
        self._select = select

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the line has a beginning
        """The card or key of a line; its numbers must be equal."""
        found = _LINE.fullmatch(text)
        if not found:
            return NoiseReason.SYNTAX
        if self._select and not names_reader(found[1].decode("latin-1"), self._select):
            return ()
        value, kind = int(found[2], 16), int(found[4])
        if kind in _KEY_TYPES:
            return (Key(),)
        if not all(_is_equal(number, value) for number in _NUMBER.findall(found[3])):
            return NoiseReason.CHECKSUM
        if kind in _STRIPPED_TYPES:
            bits, form = kind - 2, CredentialKind.DATA
        elif kind in _WHOLE_TYPES:
            bits, form = kind, CredentialKind.ID
        else:
            return NoiseReason.LENGTH
        return NoiseReason.LENGTH if value >> bits else (RawCredential(bits, value, CardCheck.NONE, form),)


def _is_equal(digits: bytes, value: int) -> bool:
    """True if the digits are the value in decimal, or in binary."""
    return int(digits) == value or (_BINARY_DIGITS.issuperset(digits) and int(digits, 2) == value)
