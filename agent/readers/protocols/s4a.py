"""S4A converters: ten decimal digits and a line end for a card, one byte followed by silence for a key."""

from __future__ import annotations

import re

from agent.readers.events import CredentialKind, Key, Noise, NoiseReason, RawCredential
from agent.readers.framing.fixed_framer import ANY
from agent.readers.framing.line_framer import PADDING, LineProtocol, Reading
from agent.swipe import CardCheck

_CARD = re.compile(rb"(.*[^0-9])?([0-9]{10})", re.DOTALL)
_BITS = 32  # as many as ten digits hold; the line does not name the card's length
_UNCHECKED, _ID = CardCheck.NONE, CredentialKind.ID


class S4a(LineProtocol):
    """S4A Wiegand-to-serial and Wiegand-to-Ethernet converters.

    A card is the ten digits at the end of a line, also after noise; after a stray digit, which may
    be a key, they are noise. There is no checksum: an altered digit cannot be detected.
    """

    # A key is a byte followed by 25 ms of silence; USB adapters may delay bytes by 16 ms.
    silence_ms = 50
    may_hold_pin = True  # keys pressed just before a card join its line

    # The byte of a key may have any value, so that no byte is static.
    characters = ANY.translate(None, b"\r\n")

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - ten digits are ten
        """The number of a card. Fewer digits are incomplete; more begin with keys."""
        found = _CARD.fullmatch(text.strip(PADDING))
        if not found:
            return NoiseReason.LENGTH if text.isdigit() else NoiseReason.SYNTAX
        noise, value = found[1], int(found[2])
        if value >> _BITS:
            return NoiseReason.LENGTH
        credential = RawCredential(_BITS, value, _UNCHECKED, _ID)
        return (Noise(NoiseReason.SYNTAX), credential) if noise else (credential,)

    def read_unfinished(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - none is
        """A lone byte is a key."""
        return (Key(),) if len(text) == 1 else NoiseReason.TRUNCATED
