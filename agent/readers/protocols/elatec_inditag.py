"""Elatec IndiTag lines: a colon, the id in hex, and a checksum that makes the sum of all bytes zero."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.line_framer import LineProtocol, Reading, after_noise
from agent.swipe import CardCheck

# Up to the 12 bytes of an EPC; bytes before the last colon are noise.
_LINE = re.compile(rb"(.*):((?:[0-9A-Fa-f]{2}){3,12})([0-9A-Fa-f]{2})")
_CHECKSUM, _ID = CardCheck.CHECKSUM, CredentialKind.ID


class ElatecIndiTag(LineProtocol):
    """Elatec TWN3 and IndiTag readers, in ASCII mode."""

    characters = HEX_DIGIT + b":"

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the colon detects a cut line
        """The id of a line with a valid sum, also after noise on that line."""
        found = _LINE.fullmatch(text)
        if not found:
            return NoiseReason.SYNTAX
        card_id = bytes.fromhex(found[2].decode("ascii"))
        if (sum(card_id) + int(found[3], 16)) & 0xFF:
            return NoiseReason.CHECKSUM
        credential = RawCredential(8 * len(card_id), int.from_bytes(card_id, "big"), _CHECKSUM, _ID)
        return after_noise(found[1], (credential,))
