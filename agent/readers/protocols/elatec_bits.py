"""Elatec lines of bits: their number as a hex byte, then the bits, left-aligned."""

from __future__ import annotations

import re

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading

_HEX = re.compile(rb"[0-9A-Fa-f]+")


class ElatecBits(LineProtocol):
    """Elatec TWN3 for HID Prox, in transparent mode.

    After printable noise a line is noise: any two digits may be the count, so that one number in a
    few dozen at the end of other text would be accepted as a card. There is no checksum: an altered
    digit is detected only if the parity is wrong then.
    """

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the count detects a cut line
        """The card of a line. The padding of the last byte is zero (TWN3 manual, page 25)."""
        if len(text) % 2 or not _HEX.fullmatch(text):
            return NoiseReason.SYNTAX
        bits, digits = int(text[:2], 16), text[2:]
        padding = -bits % 8
        if not bits or 4 * len(digits) != bits + padding:
            return NoiseReason.LENGTH
        value = int(digits, 16)
        if value & (1 << padding) - 1:
            return NoiseReason.LENGTH
        return (RawCredential(bits, value >> padding),)
