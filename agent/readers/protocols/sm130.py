"""SonMicro SM130 frames: FF 00, length, command, data and their sum, in reply to a request."""

from __future__ import annotations

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.fixed_framer import ANY, FramedProtocol, Shape, check_of
from agent.readers.protocol import LineSettings, PolledProtocol

_HEADER = (b"\xff", b"\x00")
_SEEK = b"\x82"
_UID_BYTES = (4, 7)
_UID = 5
_ID = CredentialKind.ID


def _found(uid_bytes: int) -> Shape:
    """Length, command, kind of tag, UID, sum."""
    return (*_HEADER, bytes([2 + uid_bytes]), _SEEK, ANY, *[ANY] * uid_bytes, ANY)


_NO_TAG = (*_HEADER, b"\x02", _SEEK, ANY, ANY)  # "L": the search goes on; "N": no tag; "U": field off


class Sm130(PolledProtocol, FramedProtocol):
    """SonMicro SM130 (13.56 MHz modules that must be polled).

    A card whose frame ends in the byte that begins one has the check "none": a lost byte in front of the
    next frame would not be detected.
    """

    line = LineSettings(baudrate=19200)
    requests = (b"\xff\x00\x01\x82\x83",)
    poll_ms = 200
    shapes = (*map(_found, _UID_BYTES), _NO_TAG)

    def read(self, frame: bytes) -> RawCredential | NoiseReason | None:
        """The UID of a reply, None for "no tag"; the sum covers all but the first byte."""
        if sum(frame[1:-1]) & 0xFF != frame[-1]:
            return NoiseReason.CHECKSUM
        if len(frame) == len(_NO_TAG):
            return None
        uid = frame[_UID:-1]
        return RawCredential(8 * len(uid), int.from_bytes(uid, "big"), check_of(frame), _ID)
