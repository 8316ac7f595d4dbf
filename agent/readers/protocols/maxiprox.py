"""HID MaxiProx and Serial ProxPro lines: six bytes of card data in hex and their sum."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.hid_word import wiegand_bits
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.swipe import CardCheck

_DATA_BYTES = 6
_LINE = re.compile(rb"[0-9A-Fa-f]{%d}" % (2 * (_DATA_BYTES + 1)))


class MaxiProx(LineProtocol):
    """HID MaxiProx 5375 and Serial ProxPro 5352 (RS-232)."""

    characters = HEX_DIGIT

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the sum and length detect a cut line
        """The Wiegand bits of a line with a valid sum; all of its bytes if they are no HID word."""
        if not _LINE.fullmatch(text):
            return NoiseReason.LENGTH if text.isalnum() else NoiseReason.SYNTAX
        *data, checksum = bytes.fromhex(text.decode("ascii"))
        if sum(data) & 0xFF != checksum:
            return NoiseReason.CHECKSUM
        word = int.from_bytes(bytes(data), "big")
        found = wiegand_bits(word)
        if found is None:
            return (RawCredential(8 * _DATA_BYTES, word, CardCheck.CHECKSUM, CredentialKind.IDENTIFIER),)
        return (RawCredential(*found, CardCheck.CHECKSUM, CredentialKind.ID),)
