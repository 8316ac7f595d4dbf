"""Lines printed by sketches with the Wiegand library by Monkeyboard."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, Key, NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.protocol import LineSettings
from agent.swipe import CardCheck

_LINE = re.compile(
    rb".*Wiegand HEX ?= ?([0-9A-F]{1,16}), ?DECIMAL ?= ?([0-9]{1,20}), ?Type ?W([0-9]{1,2})\s*", re.IGNORECASE
)
_KEY_TYPES = (4, 8)
# The library removes the parity bits without a check, and prints no leading zeros.
_STRIPPED_TYPES = (26, 34)
_WHOLE_TYPES = (24, 32)


class Monkeyboard(LineProtocol):
    """Arduino sketches with the Wiegand library by Monkeyboard."""

    line = LineSettings(hold_reset_lines=True)
    may_hold_pin = True

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the line has a beginning
        """The card or key of a line; its two numbers must be equal."""
        found = _LINE.fullmatch(text)
        if not found:
            return NoiseReason.SYNTAX
        value, kind = int(found[1], 16), int(found[3])
        if kind in _KEY_TYPES:
            return (Key(),)
        if value != int(found[2]):
            return NoiseReason.CHECKSUM
        if kind in _STRIPPED_TYPES:
            bits, form = kind - 2, CredentialKind.DATA
        elif kind in _WHOLE_TYPES:
            bits, form = kind, CredentialKind.ID
        else:
            return NoiseReason.LENGTH
        return NoiseReason.LENGTH if value >> bits else (RawCredential(bits, value, CardCheck.NONE, form),)
