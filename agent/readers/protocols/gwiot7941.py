"""Gwiot 7941D and 7941E frames: STX, length, card type, id, XOR, ETX, in binary."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.fixed_framer import ANY, FramedProtocol, Shape
from agent.swipe import CardCheck

_STX = b"\x02"
_ETX = b"\x03"
_EM4100 = b"\x02"  # with five bytes; some compatibles send the four that are printed
_MIFARE = b"\x01\x03"  # Classic 1K and 4K
_OVERHEAD = 5  # STX, length, type, XOR, ETX
_CHECKSUM, _ID = CardCheck.CHECKSUM, CredentialKind.ID


def _shape(types: bytes, id_bytes: int) -> Shape:
    # The length byte counts the whole frame, and an id may hold STX or ETX.
    return (_STX, bytes([_OVERHEAD + id_bytes]), types, *[ANY] * id_bytes, ANY, _ETX)


class Gwiot7941(FramedProtocol):
    """Gwiot 7941D and 7941E (125 kHz and 13.56 MHz modules that send without a request)."""

    repeats_while_held = True
    shapes = (_shape(_EM4100, 5), _shape(_EM4100, 4), _shape(_MIFARE, 4), _shape(_MIFARE, 7))

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """The id of a frame; its XOR covers length, type and id."""
        if reduce(xor, frame[1:-1]):
            return NoiseReason.CHECKSUM
        card_id = frame[3:-2]
        return RawCredential(8 * len(card_id), int.from_bytes(card_id, "big"), _CHECKSUM, _ID)
