"""Elatec IndiTag lines: a colon, the hex id, and the byte that makes the sum of all bytes zero."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.line_framer import LineProtocol, Reading, behind
from agent.swipe import CardCheck

# Up to the 12 bytes of an EPC; whatever came before the last colon belongs to no line.
_LINE = re.compile(rb"(.*):((?:[0-9A-Fa-f]{2}){3,12})([0-9A-Fa-f]{2})")


class ElatecIndiTag(LineProtocol):
    """Elatec TWN3 and IndiTag readers, in ASCII mode."""

    characters = HEX_DIGIT + b":"

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - the colon tells a cut line
        """The id of a line whose sum is right, behind the beginning of another if need be."""
        found = _LINE.fullmatch(text)
        if not found:
            return NoiseReason.SYNTAX
        card_id = bytes.fromhex(found[2].decode("ascii"))
        if (sum(card_id) + int(found[3], 16)) & 0xFF:
            return NoiseReason.CHECKSUM
        word = RawCredential(
            8 * len(card_id), int.from_bytes(card_id, "big"), CardCheck.CHECKSUM, CredentialKind.ID
        )
        return behind(found[1], (word,))
