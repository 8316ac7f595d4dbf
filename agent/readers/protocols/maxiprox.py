"""HID MaxiProx and Serial ProxPro lines: six bytes of card data in hex and their sum."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.hid_word import wiegand_bits
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.swipe import CardCheck

_DATA_BYTES = 6
_CHECKSUM, _ID = CardCheck.CHECKSUM, CredentialKind.ID
_LINE = re.compile(rb"[0-9A-Fa-f]{%d}" % (2 * (_DATA_BYTES + 1)))


class MaxiProx(LineProtocol):
    """HID MaxiProx 5375 and Serial ProxPro 5352 (RS-232)."""

    characters = HEX_DIGIT

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the sum and length detect a cut line
        """The Wiegand bits of a line with a valid sum; all of its bytes if they are no HID word."""
        if not _LINE.fullmatch(text):
            return NoiseReason.LENGTH if text.isalnum() else NoiseReason.SYNTAX
        data = bytes.fromhex(text.decode("ascii"))
        if (sum(data) - data[-1]) & 0xFF != data[-1]:
            return NoiseReason.CHECKSUM
        word = int.from_bytes(data[:_DATA_BYTES], "big")
        found = wiegand_bits(word)
        if found is None:
            return (RawCredential(8 * _DATA_BYTES, word, _CHECKSUM, CredentialKind.IDENTIFIER),)
        bits, value = found
        return (RawCredential(bits, value, _CHECKSUM, _ID),)
