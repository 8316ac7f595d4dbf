"""WL-134 frames: STX, an FDX-B number and flags in hex with the least significant digit first, XOR, ETX."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing import fdx_b
from agent.readers.framing.em4100_id import HEX_DIGIT
from agent.readers.framing.fixed_framer import ANY, FramedProtocol

# Ten digits of national number, four of country, one each for data block and animal, ten reserved.
_NUMBER_END, _COUNTRY_END, _DIGITS_END = 11, 15, 27
_INVERSE = _DIGITS_END + 1
_ALL_ONES = 0xFF


class Wl134(FramedProtocol):
    """WL-134, WL-134A and compatible modules (134.2 kHz, FDX-B transponders of animals)."""

    shapes = ((b"\x02", *[HEX_DIGIT] * (_DIGITS_END - 1), ANY, ANY, b"\x03"),)

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """Country and national number of a frame of 30 bytes, as 48 bits."""
        if reduce(xor, frame[1 : _DIGITS_END + 1]) or frame[_DIGITS_END] ^ frame[_INVERSE] != _ALL_ONES:
            return NoiseReason.CHECKSUM
        number = int(frame[1:_NUMBER_END][::-1], 16)
        country = int(frame[_NUMBER_END:_COUNTRY_END][::-1], 16)
        return fdx_b.identifier(country, number)
