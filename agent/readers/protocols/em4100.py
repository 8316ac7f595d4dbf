"""The tag id in the frames of 125 kHz EM4100 modules: ten hex digits, most with an XOR checksum."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.swipe import Check, Reason, Word

HEX_DIGIT = b"0123456789ABCDEFabcdef"
ID_DIGITS = 10
ID_BYTES = ID_DIGITS // 2

# What a module sends that lost its coil or its tag; its checksum is right.
_NULL_IDS = (bytes(ID_BYTES), b"\xff" * ID_BYTES)


def tag(digits: bytes, checksum: int | None) -> Word | Reason:
    """All 40 bits of a tag id: the version byte, then the 32 bits printed on the card.

    `checksum` is the frame's own, the XOR of the five bytes, or None where frames have none.
    """
    tag_id = bytes.fromhex(digits.decode("ascii"))
    if checksum is not None and reduce(xor, tag_id) != checksum:
        return Reason.CHECKSUM
    if tag_id in _NULL_IDS:
        return Reason.NULL
    check = Check.NONE if checksum is None else Check.CHECKSUM
    return Word(8 * ID_BYTES, int.from_bytes(tag_id, "big"), check)
