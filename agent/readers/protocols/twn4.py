"""TWN4 lines as its standard application prints them: a tag's id in hex and nothing else."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.swipe import CardCheck

_HEX = re.compile(rb"[0-9A-Fa-f]+")
# Nothing checks the line, so only lengths that ids have: Mifare, EM4100, the longer UIDs of
# ISO 14443 with ISO 15693 between them, EPC.
_ID_BYTES = frozenset({4, 5, 7, 8, 10, 12})


class Twn4(LineProtocol):
    """Elatec TWN4 with the application it is delivered with (USB serial port or UART).

    A line is an id as a whole or noise: behind a stray character could be the rest of a longer id,
    and a stray hex digit in front makes a length that no id has.
    """

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The id of a line; one that lost its beginning could be a shorter id."""
        if cut or not _HEX.fullmatch(text):
            return NoiseReason.SYNTAX
        bits = 4 * len(text)
        if bits % 8 or bits // 8 not in _ID_BYTES:
            return NoiseReason.LENGTH
        return (RawCredential(bits, int(text, 16), CardCheck.NONE, CredentialKind.ID),)
