"""Wiegand-to-serial converters: a line of hex digits, the parity bits checked and removed."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.swipe import CardCheck

# Six digits for a 26-bit card, eight for 34 bits, nine to eleven for 37 to 44, as in the converters'
# manuals. Seven would be a 30-bit card, which none of them supports: they are six and a stray digit.
# Twelve are two cards with the line end lost.
_LINE = re.compile(rb"[0-9A-Fa-f]{6}|[0-9A-Fa-f]{8,11}")
_DIGITS_37_BIT = 9
_DATA_BITS_37_BIT = 35
_UPSTREAM, _DATA = CardCheck.UPSTREAM, CredentialKind.DATA


class Wie232(LineProtocol):
    """Priority 1 Design WIE232 and WIEG4PRT.

    A line is one number or noise: after a stray character there may be the rest of a longer number.
    A stray hex digit before eight or more digits cannot be detected.
    """

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The data bits of a line; one without its beginning would be a shorter card."""
        if not _LINE.fullmatch(text):
            return NoiseReason.LENGTH if text.isalnum() else NoiseReason.SYNTAX
        if cut:
            return NoiseReason.SYNTAX
        value = int(text, 16)
        bits = 4 * len(text)
        # The data bits of a 37-bit card do not fill their nine digits; of 38 bits they do.
        if len(text) == _DIGITS_37_BIT and not value >> _DATA_BITS_37_BIT:
            bits = _DATA_BITS_37_BIT
        return (RawCredential(bits, value, _UPSTREAM, _DATA),)


class Wg2Rs232(Wie232):
    """WG2RS232 and other converters that print six or more hex digits."""
