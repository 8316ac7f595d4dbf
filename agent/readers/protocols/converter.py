"""Wiegand-to-serial converters: a line of hex digits, the parity bits checked and removed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.cards.formats import CARD_BITS
from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.protocol import Option, OptionError
from agent.swipe import CardCheck

# Six digits for a 26-bit card, eight for 34 bits, nine to eleven for 37 to 44, as in the converters'
# manuals. Seven would be a 30-bit card, which none of them supports: they are six and a stray digit.
# Twelve are two cards with the line end lost.
_LINE = re.compile(rb"[0-9A-Fa-f]{6}|[0-9A-Fa-f]{8,11}")
_DIGITS_26_BIT, _DIGITS_37_BIT = 6, 9
_DATA_BITS_37_BIT = 35
_PARITY_BITS = 2
_LONGEST_CARD_BITS = 46  # eleven digits
_UPSTREAM, _DATA = CardCheck.UPSTREAM, CredentialKind.DATA


class Wie232(LineProtocol):
    """Priority 1 Design WIE232 and WIEG4PRT.

    A line is one number or noise: after a stray character there may be the rest of a longer number.
    Unless `bits` is set, a lost or stray digit of eight or more cannot be detected, because the number
    is one of another length: the check of these cards is "none". A digit that was altered on the serial
    line is never detected.
    """

    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "bits": Option(
                "how many bits the cards have at the reader, 26, 34, 37 ...: any other number of digits is "
                "noise; 0: any of the converter",
                0,
                high=_LONGEST_CARD_BITS,
            )
        }
    )

    def __init__(self, *, bits: int = 0) -> None:
        """Raises OptionError for a number of bits that no card has."""
        super().__init__()
        if bits and bits not in CARD_BITS:
            raise OptionError({"bits": f"no card has {bits} bits; 0 for any"})
        self._data_bits = bits and bits - _PARITY_BITS

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The data bits of a line; one without its beginning would be a shorter card."""
        if not _LINE.fullmatch(text):
            return NoiseReason.LENGTH if text.isalnum() else NoiseReason.SYNTAX
        if cut:
            return NoiseReason.SYNTAX
        value = int(text, 16)
        if self._data_bits:
            if len(text) != (self._data_bits + 3) // 4 or value >> self._data_bits:
                return NoiseReason.LENGTH
            return (RawCredential(self._data_bits, value, _UPSTREAM, _DATA),)
        bits = 4 * len(text)
        # The data bits of a 37-bit card do not fill their nine digits; of 38 bits they do.
        if len(text) == _DIGITS_37_BIT and not value >> _DATA_BITS_37_BIT:
            bits = _DATA_BITS_37_BIT
        check = _UPSTREAM if len(text) == _DIGITS_26_BIT else CardCheck.NONE
        return (RawCredential(bits, value, check, _DATA),)


class Wg2Rs232(Wie232):
    """WG2RS232 and other converters that print six or more hex digits.

    As Wie232: faults that cannot be detected are named there.
    """
