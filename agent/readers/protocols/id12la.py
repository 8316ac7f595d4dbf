"""ID-12LA frames: STX, ten hex digits of tag id, two of checksum, CR, LF, ETX."""

from __future__ import annotations

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT, ID_DIGITS, tag
from agent.readers.framing.fixed_framer import FramedProtocol

_ID_END = 1 + ID_DIGITS
_CHECKSUM_END = _ID_END + 2


class Id12La(FramedProtocol):
    """ID-12LA and ID-20LA, strapped for ASCII (125 kHz modules)."""

    shapes = ((b"\x02", *[HEX_DIGIT] * (ID_DIGITS + 2), b"\r", b"\n", b"\x03"),)

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """The tag id of a frame of 16 bytes."""
        return tag(frame[1:_ID_END], int(frame[_ID_END:_CHECKSUM_END], 16))
