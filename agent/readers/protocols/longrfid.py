"""LongRFID frames: AA, three fixed bytes, an FDX-B number, XOR, BB."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing import fdx_b
from agent.readers.framing.fixed_framer import ANY, FramedProtocol

# "AA 0F 08 00 03 84 12 DB FA E7 D5 81 BB": start, fixed, two bytes of country, five of national number, XOR
# of all before it but the start, end (longrfid.com, FDX-A/B Card Reader Module).
_FIXED = (b"\xaa", b"\x0f", b"\x08", b"\x00")
_COUNTRY, _NUMBER, _CHECK = 4, 6, 11


class LongRfid(FramedProtocol):
    """LongRFID modules (134.2 kHz, FDX-B transponders of animals)."""

    shapes = ((*_FIXED, *[ANY] * (_CHECK + 1 - len(_FIXED)), b"\xbb"),)

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """Country and national number of a frame, as 48 bits."""
        if reduce(xor, frame[1 : _CHECK + 1]):
            return NoiseReason.CHECKSUM
        country = int.from_bytes(frame[_COUNTRY:_NUMBER], "big")
        number = int.from_bytes(frame[_NUMBER:_CHECK], "big")
        return fdx_b.identifier(country, number)
