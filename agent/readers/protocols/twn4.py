"""Lines of the TWN4's standard application: a tag's id in hex."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.swipe import CardCheck

_HEX = re.compile(rb"[0-9A-Fa-f]+")
# There is no checksum, so only the lengths of ids are valid: Mifare, EM4100, the longer UIDs of
# ISO 14443 with ISO 15693 between them, EPC.
_ID_BYTES = frozenset({4, 5, 7, 8, 10, 12})
_UNCHECKED, _ID = CardCheck.NONE, CredentialKind.ID


class Twn4(LineProtocol):
    """Elatec TWN4 with the application it is delivered with (USB serial port or UART).

    A line is one id or noise: after a stray character there may be the rest of a longer id, and
    with a stray hex digit the length is not that of an id. There is no checksum: an altered digit, and
    two ids of four or five bytes whose line end was lost, cannot be detected.
    """

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The id of a line; one without its beginning may be a valid shorter id."""
        if cut or not _HEX.fullmatch(text):
            return NoiseReason.SYNTAX
        bits = 4 * len(text)
        if bits % 8 or bits // 8 not in _ID_BYTES:
            return NoiseReason.LENGTH
        return (RawCredential(bits, int(text, 16), _UNCHECKED, _ID),)
