"""RDM6300 frames: STX, ten hex digits of tag id, the checksum in one of two forms, ETX."""

from __future__ import annotations

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT, ID_DIGITS, tag
from agent.readers.framing.fixed_framer import ANY, FramedProtocol
from agent.swipe import CardCheck

_STX = b"\x02"
_ETX = b"\x03"

_ID_END = 1 + ID_DIGITS
_HEX_CHECKSUM = (_STX, *[HEX_DIGIT] * ID_DIGITS, HEX_DIGIT, HEX_DIGIT, _ETX)
# Clones send the checksum as one raw byte, which may itself be STX or ETX, so only its position
# identifies it. The two forms differ at the 13th byte: ETX here, a hex digit there.
#
# A frame of 14 bytes that lost a digit is a frame of 13 with a raw checksum that is a hex digit, and in
# one of 256 cases a valid one.
_RAW_CHECKSUM = (_STX, *[HEX_DIGIT] * ID_DIGITS, ANY, _ETX)


class Rdm6300(FramedProtocol):
    """RDM6300, RDM630 and their clones (125 kHz modules).

    A card whose raw checksum is the code of a hex digit has the check "none": it may be a longer
    frame that lost a digit, which is not detected.
    """

    repeats_while_held = True  # every 50-65 ms
    shapes = (_HEX_CHECKSUM, _RAW_CHECKSUM)

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """The tag id of a frame of 14 bytes, or of 13 with a raw checksum."""
        if len(frame) != len(_RAW_CHECKSUM):
            return tag(frame[1:_ID_END], int(frame[_ID_END:-1], 16))
        credential = tag(frame[1:_ID_END], frame[_ID_END])
        if isinstance(credential, RawCredential) and frame[_ID_END] in HEX_DIGIT:
            return credential._replace(check=CardCheck.NONE)
        return credential
