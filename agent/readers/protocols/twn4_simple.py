"""TWN4 Simple Protocol: repeated SearchTag requests, and their replies in lines of hex."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, NoiseReason, RawCredential, Status
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.line_framer import LineProtocol, Reading
from agent.readers.protocol import PolledProtocol
from agent.swipe import CardCheck

_MAX_ID_BYTES = 16
_REPLY = re.compile(rb"[0-9A-Fa-f]{2}(?:[0-9A-Fa-f]{2})*")
_NO_TAG = b"0000"
_FOUND = b"0001"
_DONE = b"00"
_HEADER_DIGITS = 10  # status, result, tag type, bit count, byte count

_REFUSED = Status(
    "the reader does not know SearchTag: is the Simple Protocol application loaded into it?", ok=False
)


class Twn4Simple(PolledProtocol, LineProtocol):
    """Elatec TWN4 with the Simple Protocol application, which must be polled.

    A reply after noise is valid, because it contains its length; after a stray hex digit it is
    noise, and the next request repeats it. There is no checksum: an altered digit cannot be detected.
    """

    characters = HEX_DIGIT

    requests = (b"0500%02X\r" % _MAX_ID_BYTES,)
    poll_ms = 200

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The id of a reply; nothing for "no tag"; a status for "unknown function"."""
        if not _REPLY.fullmatch(text) or (cut and not text.startswith(_FOUND)):
            return NoiseReason.SYNTAX
        if text == _NO_TAG:
            return ()
        if not text.startswith(_DONE):
            return (_REFUSED,) if len(text) == len(_DONE) else NoiseReason.SYNTAX
        if not text.startswith(_FOUND) or len(text) < _HEADER_DIGITS:
            return NoiseReason.SYNTAX
        bits, id_bytes = int(text[6:8], 16), int(text[8:10], 16)
        digits = text[_HEADER_DIGITS:]
        padding = 8 * id_bytes - bits
        if not bits or id_bytes > _MAX_ID_BYTES or len(digits) != 2 * id_bytes or padding not in range(8):
            return NoiseReason.LENGTH
        value = int(digits, 16)
        if value & (1 << padding) - 1:
            return NoiseReason.LENGTH
        # An id that is not whole bytes is a Wiegand credential, as HID Prox has.
        return (
            RawCredential(
                bits,
                value >> padding,
                CardCheck.NONE,
                CredentialKind.WIEGAND if padding else CredentialKind.ID,
            ),
        )
