"""The tag id in the frames of 125 kHz EM4100 modules: ten hex digits, most with an XOR checksum."""

from __future__ import annotations

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.swipe import CardCheck

HEX_DIGIT = b"0123456789ABCDEFabcdef"
ID_DIGITS = 10
ID_BITS = 4 * ID_DIGITS

# Sent by a module whose coil or tag is disconnected, with a valid checksum.
_NULL_IDS = (0, (1 << ID_BITS) - 1)
_UNCHECKED, _CHECKSUM, _ID = CardCheck.NONE, CardCheck.CHECKSUM, CredentialKind.ID


def tag(digits: bytes, checksum: int | None) -> RawCredential | NoiseReason:
    """All 40 bits of a tag id: the version byte, then the 32 bits printed on the card.

    `checksum` is the frame's own, the XOR of the five bytes, or None where frames have none.
    """
    value = int(digits, 16)
    if checksum is not None and _xor(value) != checksum:
        return NoiseReason.CHECKSUM
    if value in _NULL_IDS:
        return NoiseReason.NULL
    return RawCredential(ID_BITS, value, _UNCHECKED if checksum is None else _CHECKSUM, _ID)


def _xor(value: int) -> int:
    """The XOR of five bytes, by folding."""
    value ^= value >> 32
    value ^= value >> 16
    return (value ^ value >> 8) & 0xFF
