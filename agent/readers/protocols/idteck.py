"""IDTECK frames: STX, up to eight characters, ETX and the XOR of all these, for cards and PINs."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.readers.events import CredentialKind, Key, NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.fixed_framer import ANY, FramedProtocol
from agent.readers.protocol import LineSettings
from agent.swipe import CardCheck

_STX = b"\x02"
_ETX = b"\x03"
_CHARACTER = bytes(range(0x20, 0x7F))
_CARD_CHARACTERS = 8
_TYPED = b"0123456789*#"
_CHECKSUM, _ID = CardCheck.CHECKSUM, CredentialKind.ID


class Idteck(FramedProtocol):
    """IDTECK RFK101, Star and other IDTECK readers on RS-232, some with a keypad."""

    line = LineSettings(stop_bits=2)
    may_hold_pin = True
    # The XOR may be any byte, STX and ETX too. Most frames are cards, and so the first that is compared.
    shapes = tuple((_STX, *[_CHARACTER] * count, _ETX, ANY) for count in range(_CARD_CHARACTERS, 0, -1))

    def read(self, frame: bytes) -> RawCredential | Key | NoiseReason:
        """The card or key of a frame. A card has eight hex digits, a PIN up to eight decimal ones;
        eight decimal digits may be either, depending on whether the reader has keys.
        """
        if reduce(xor, frame):
            return NoiseReason.CHECKSUM
        text = frame[1:-2]
        if len(text) < _CARD_CHARACTERS:
            return Key()
        if text.translate(None, HEX_DIGIT):
            return NoiseReason.SYNTAX if text.translate(None, _TYPED) else Key()
        maybe_pin = text.isdigit()
        return RawCredential(4 * _CARD_CHARACTERS, int(text, 16), _CHECKSUM, _ID, maybe_pin)
