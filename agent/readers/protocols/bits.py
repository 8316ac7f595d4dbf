"""Lines of text that name a word bit by bit: `26:2F657AE`, `W26:2F657AE`, or its zeros and ones."""

from __future__ import annotations

import re

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.line_framer import LineProtocol, Reading, behind
from agent.readers.protocol import LineSettings

# The longest Wiegand words in the field are the 200 bits of US government cards; a line holds 256.
LONGEST_WORD_BITS = 256

_COUNTED = re.compile(rb"(W?)([1-9][0-9]{0,2}):([0-9A-Fa-f]+)")
_BINARY = re.compile(rb"[01]+")
_COUNT = re.compile(rb"[1-9][0-9]+")
_HEX = re.compile(rb"[0-9A-Fa-f]+")
# Fewer are what a clock shows: the 40:59 of "uptime 40:59".
_FEWEST_DIGITS_BEHIND_NOISE = 3


class Bits(LineProtocol):
    """Wiegand bridges that print words as text (Arduino, ESP and the like).

    Behind noise on its line a counted word is found by its count, which has to be that of its
    digits. Zeros and ones are not: what noise cut off might have been their beginning.
    """

    line = LineSettings(hold_reset_lines=True)
    characters = HEX_DIGIT + b"W:"

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The word a line names, behind noise if need be."""
        counted = _COUNTED.fullmatch(text)
        if counted and (counted[1] or not cut):
            return _word(int(counted[2]), counted[3])
        if _BINARY.fullmatch(text) and not cut:
            return (RawCredential(len(text), int(text, 2)),)
        return _behind_noise(text)


def _word(bits: int, digits: bytes) -> Reading:
    value = int(digits, 16)
    if bits > LONGEST_WORD_BITS or len(digits) > (bits + 3) // 4 or value >> bits:
        return NoiseReason.LENGTH
    return (RawCredential(bits, value),)


def _behind_noise(text: bytes) -> Reading:
    """The word at the end of a line whose beginning is not to be trusted: the count is that of the
    digits, as no other number in front of the colon can be. With a second colon the line is given
    up, for that may have been a digit of a longer word.
    """
    head, _, digits = text.partition(b":")
    if len(digits) < _FEWEST_DIGITS_BEHIND_NOISE or not _HEX.fullmatch(digits):
        return NoiseReason.SYNTAX
    for count in (head[-3:], head[-2:]):
        if _COUNT.fullmatch(count) and (int(count) + 3) // 4 == len(digits):
            return behind(head[: -len(count)], _word(int(count), digits))
    return NoiseReason.SYNTAX
