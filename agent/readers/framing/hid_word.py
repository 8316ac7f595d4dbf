"""The 44-bit words in which HID proximity readers give a card: a marker, then its Wiegand bits."""

from __future__ import annotations

# Cards of fewer than 37 bits have this bit set, and one more bit in front of their first (Proxmark3,
# client/src/cmdlfhid.c; the words of readers in the field begin with 20).
_SHORT_MARKER = 1 << 37
_LONGEST_BITS = 37
_SHORTEST_BITS = 24


def wiegand_bits(word: int) -> tuple[int, int] | None:
    """The number of Wiegand bits and their value; None if this is no such word."""
    if word >> _LONGEST_BITS == 0:
        return _LONGEST_BITS, word
    if word >> _LONGEST_BITS != 1:
        return None
    marked = word ^ _SHORT_MARKER
    bits = marked.bit_length() - 1
    return (bits, marked ^ 1 << bits) if _SHORTEST_BITS <= bits < _LONGEST_BITS else None
