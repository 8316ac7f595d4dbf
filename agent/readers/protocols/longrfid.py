"""LongRFID frames: AA, three fixed bytes, an FDX-B number, XOR, BB."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.fixed_framer import ANY, FramedProtocol
from agent.swipe import CardCheck

# "AA 0F 08 00 03 84 12 DB FA E7 D5 81 BB": start, fixed, two bytes of country, five of national number, XOR
# of all before it but the start, end (longrfid.com, FDX-A/B Card Reader Module).
_FIXED = (b"\xaa", b"\x0f", b"\x08", b"\x00")
_COUNTRY, _NUMBER, _CHECK = 4, 6, 11
# ISO 11784: 10 bits of country, then 38 of national number.
_COUNTRY_BITS, _NUMBER_BITS = 10, 38


class LongRfid(FramedProtocol):
    """LongRFID modules (134.2 kHz, FDX-B transponders of animals)."""

    shapes = ((*_FIXED, *[ANY] * (_CHECK + 1 - len(_FIXED)), b"\xbb"),)

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """Country and national number of a frame, as 48 bits."""
        if reduce(xor, frame[1 : _CHECK + 1]):
            return NoiseReason.CHECKSUM
        country = int.from_bytes(frame[_COUNTRY:_NUMBER], "big")
        number = int.from_bytes(frame[_NUMBER:_CHECK], "big")
        if number >> _NUMBER_BITS or country >> _COUNTRY_BITS:
            return NoiseReason.LENGTH
        value = country << _NUMBER_BITS | number
        if not value:
            return NoiseReason.NULL
        return RawCredential(
            _COUNTRY_BITS + _NUMBER_BITS, value, CardCheck.CHECKSUM, CredentialKind.IDENTIFIER
        )
