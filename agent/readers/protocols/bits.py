"""Text lines with the bits of a card: `26:2F657AE`, `W26:2F657AE`, or binary digits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.line_framer import LineProtocol, Reading, after_noise
from agent.readers.protocol import LineSettings, Option

# The longest Wiegand cards in the field are those of the US government, 200 bits; a line holds 256.
LONGEST_WORD_BITS = 256

_COUNTED = re.compile(rb"(W?)([1-9][0-9]{0,2}):([0-9A-Fa-f]+)")
_BINARY = re.compile(rb"[01]+")
_COUNT = re.compile(rb"[1-9][0-9]+")
_HEX = re.compile(rb"[0-9A-Fa-f]+")
# Fewer may be a time of day or a duration, as in "uptime 40:59".
_FEWEST_DIGITS_AFTER_NOISE = 3


class Bits(LineProtocol):
    """Wiegand bridges that print credentials as text (Arduino, ESP and the like).

    After noise on its line a card with a bit count is found if the count agrees with its digits.
    Binary digits after noise are rejected: their beginning may be missing. A lost binary digit cannot
    be detected: the others are a card of another length, with the check "none", unless `formats` makes
    them noise. An altered digit is detected only if the parity is wrong then.
    """

    options: ClassVar[Mapping[str, Option]] = MappingProxyType(
        {
            "unpadded": Option(
                "yes: the sketch prints no leading zeros, so that a lost digit cannot be detected and the "
                'check of such a card is "none"',
                "no",
                allowed=("no", "yes"),
            )
        }
    )

    def __init__(self, *, unpadded: str = "no") -> None:
        super().__init__()
        self._may_lack_zeros = unpadded == "yes"

    line = LineSettings(hold_reset_lines=True)
    characters = HEX_DIGIT + b"W:"

    def read(self, text: bytes, *, cut: bool) -> Reading:
        """The card in a line, also after noise on that line."""
        counted = _COUNTED.fullmatch(text)
        if counted and (not cut or counted[1]):
            return self._credential(int(counted[2]), counted[3])
        if _BINARY.fullmatch(text) and not cut:
            return (RawCredential(len(text), int(text, 2)),)
        return self._read_after_noise(text)

    def _credential(self, bits: int, digits: bytes) -> Reading:
        missing = (bits + 3) // 4 - len(digits)
        value = int(digits, 16)
        if bits > LONGEST_WORD_BITS or value >> bits or missing < 0 or (missing and not self._may_lack_zeros):
            return NoiseReason.LENGTH
        return (RawCredential(bits, value, unpadded=True) if missing else RawCredential(bits, value),)

    def _read_after_noise(self, text: bytes) -> Reading:
        """The card at the end of a line that begins with noise: the bit count must agree with the number
        of digits. A line with a second colon is rejected: that may replace a digit of a longer card.
        """
        head, _, digits = text.partition(b":")
        if len(digits) < _FEWEST_DIGITS_AFTER_NOISE or not _HEX.fullmatch(digits):
            return NoiseReason.SYNTAX
        for count in (head[-3:], head[-2:]):
            if _COUNT.fullmatch(count) and (int(count) + 3) // 4 == len(digits):
                return after_noise(head[: -len(count)], self._credential(int(count), digits))
        return NoiseReason.SYNTAX
