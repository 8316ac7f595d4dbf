"""Lines of text that name a word bit by bit: `26:2F657AE`, `W26:2F657AE`, or its zeros and ones."""

from __future__ import annotations

import re

from agent.readers.protocol import LineSettings
from agent.readers.protocols.lines import LineProtocol, Reading
from agent.swipe import Reason, Word

# The longest Wiegand words in the field are the 200 bits of US government cards; a line holds 256.
LONGEST_WORD_BITS = 256

_COUNTED = re.compile(rb"W?([1-9][0-9]{0,2}):([0-9A-Fa-f]+)")
_BINARY = re.compile(rb"[01]+")


class Bits(LineProtocol):
    """Wiegand bridges that print words as text (Arduino, ESP and the like)."""

    line = LineSettings(hold_reset_lines=True)

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The word a line names. A cut line must say its own length: zeros and ones that lost
        their beginning would be a shorter card.
        """
        counted = _COUNTED.fullmatch(text)
        if counted:
            bits, digits = int(counted[1]), counted[2]
            value = int(digits, 16)
            if bits > LONGEST_WORD_BITS or len(digits) > (bits + 3) // 4 or value >> bits:
                return Reason.LENGTH
            return (Word(bits, value),)
        if _BINARY.fullmatch(text) and not cut:
            return (Word(len(text), int(text, 2)),)
        return Reason.SYNTAX
