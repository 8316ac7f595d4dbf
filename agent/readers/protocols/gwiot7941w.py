"""Gwiot 7941W: a request for each kind of card; replies of CD DC, address, status, length, data, XOR."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.fixed_framer import ANY, FramedProtocol, Shape, check_of
from agent.readers.protocol import LineSettings, PolledProtocol

_HEADER = (b"\xcd", b"\xdc")
_HEADER_BYTES = len(_HEADER)
_DATA_START = 5
_FOUND = b"\x81"
_NOTHING = 0x80
_ID_BYTES = (4, 5, 7, 10)  # Mifare, EM4100, and the two longer UIDs of ISO 14443
_ID = CredentialKind.ID


def _shape(status: bytes, data_bytes: int) -> Shape:
    return (*_HEADER, ANY, status, bytes([data_bytes]), *[ANY] * data_bytes, ANY)


class Gwiot7941W(PolledProtocol, FramedProtocol):
    """Gwiot 7941W (125 kHz and 13.56 MHz modules that must be polled).

    A card whose frame ends in the byte that begins one has the check "none": a lost byte in front of the
    next frame would not be detected.
    """

    line = LineSettings(baudrate=115200)
    requests = (b"\xab\xba\x00\x10\x00\x10", b"\xab\xba\x00\x15\x00\x15")  # 13.56 MHz, then 125 kHz
    poll_ms = 100
    shapes = (
        *(_shape(_FOUND, id_bytes) for id_bytes in _ID_BYTES),
        _shape(bytes([_NOTHING]), 0),
        _shape(bytes([_NOTHING]), 1),
    )

    def read(self, frame: bytes) -> RawCredential | NoiseReason | None:
        """The id in a reply, None for "no card"; the XOR covers all but the header."""
        if reduce(xor, frame[_HEADER_BYTES:]):
            return NoiseReason.CHECKSUM
        if frame[_HEADER_BYTES + 1] == _NOTHING:
            return None
        card_id = frame[_DATA_START:-1]
        return RawCredential(8 * len(card_id), int.from_bytes(card_id, "big"), check_of(frame), _ID)
