"""Parallax frames: LF, ten hex digits of tag id, CR, without a checksum."""

from __future__ import annotations

from agent.readers.events import NoiseReason, RawCredential
from agent.readers.framing.em4100_id import HEX_DIGIT, ID_DIGITS, tag
from agent.readers.framing.fixed_framer import FramedProtocol
from agent.readers.protocol import LineSettings


class Parallax(FramedProtocol):
    """Parallax 28140 and 28340 (125 kHz card readers).

    There is no checksum: an altered digit cannot be detected. The reader repeats a held card, so that
    `confirm_reads = 2` detects it.
    """

    repeats_while_held = True  # while /ENABLE is low
    line = LineSettings(baudrate=2400)
    shapes = ((b"\n", *[HEX_DIGIT] * ID_DIGITS, b"\r"),)

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """The tag id of a frame of 12 bytes."""
        return tag(frame[1:-1], checksum=None)
