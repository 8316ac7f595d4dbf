"""S4A converters: ten decimal digits and a line end for a card, one byte and silence for a key."""

from __future__ import annotations

import re

from agent.readers.protocols.framing import ANY
from agent.readers.protocols.lines import LineProtocol, Reading
from agent.swipe import Check, Form, Key, Reason, Word

_CARD = re.compile(rb"[0-9]{10}")
_BITS = 32  # ten digits hold as many, whatever the card had; which one it was is not told


class S4a(LineProtocol):
    """S4A Wiegand-to-serial and Wiegand-to-Ethernet converters."""

    # A key is a byte that nothing follows for 25 ms; USB adapters may hold bytes back for 16 ms.
    silence_ms = 50
    may_hold_pin = True  # keys typed right before a card run together with it

    # The byte of a key may be any, so that none can be told for static before it is alone.
    pieces = re.compile(rb"(?P<text>[^\r\n]+)|(?P<end>[\r\n]+)")
    clean = ANY

    def read(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - ten digits are ten
        """The number of a card. Fewer digits lost some, more have keys in front of them."""
        if not _CARD.fullmatch(text):
            return Reason.LENGTH if text.isdigit() else Reason.SYNTAX
        value = int(text)
        if value >> _BITS:
            return Reason.LENGTH
        return (Word(_BITS, value, Check.NONE, Form.ID),)

    def read_unfinished(self, text: bytes, *, cut: bool) -> Reading:  # noqa: ARG002 - none is
        """A lone byte is a key."""
        return (Key(),) if len(text) == 1 else Reason.TRUNCATED
