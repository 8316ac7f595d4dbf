"""Elatec lines of bits: a hex byte that counts them, then the bits themselves from the left."""

from __future__ import annotations

import re

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading

_LINE = re.compile(rb"(?:[0-9A-Fa-f]{2})+")


class ElatecBits(LineProtocol):
    """Elatec TWN3 for HID Prox, in transparent mode.

    Behind printable noise a line is noise: any two digits could be the count, so that one number
    in a few dozen at the end of some other text would be taken for a card.
    """

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the count tells a cut line
        """The word of a line. The bits that fill the last byte are zeros (TWN3 manual, page 25)."""
        if not _LINE.fullmatch(text):
            return NoiseReason.SYNTAX
        bits, digits = int(text[:2], 16), text[2:]
        padding = -bits % 8
        if not bits or 4 * len(digits) != bits + padding:
            return NoiseReason.LENGTH
        value = int(digits, 16)
        if value & (1 << padding) - 1:
            return NoiseReason.LENGTH
        return (RawCredential(bits, value >> padding),)
