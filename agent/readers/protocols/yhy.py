"""Frames of Ehuoyan YHY modules in automatic mode: AA BB, length, block of a card, XOR."""

from __future__ import annotations

from functools import reduce
from operator import xor

from agent.readers.events import CredentialKind, NoiseReason, RawCredential, ReaderEvent
from agent.readers.framing.fixed_framer import ANY, FramedProtocol, check_of

_HEADER = (b"\xaa", b"\xbb")
_STUFFED, _ESCAPE = b"\xaa\x00", b"\xaa"
_LENGTH = 18  # kind of card, block, XOR
_BLOCK = 4
_BLOCK_BYTES = 16
_UID_BYTES = 4


class Yhy(FramedProtocol):
    """Ehuoyan YHY502, YHY521X and compatible modules in automatic mode (13.56 MHz).

    A card whose frame ends in the byte that begins one has the check "none": a lost byte in front of the
    next frame would not be detected.
    """

    shapes = ((*_HEADER, bytes([_LENGTH]), *[ANY] * _LENGTH),)

    def __init__(self) -> None:
        super().__init__()
        self._escape = b""  # AA at the end of the received bytes: 00 after it is stuffed

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._escape = b""

    def read(self, frame: bytes) -> RawCredential | NoiseReason:
        """The UID in block 0 of a card, which contains its XOR; any other block as an identifier."""
        if reduce(xor, frame[2:]):
            return NoiseReason.CHECKSUM
        block = frame[_BLOCK : _BLOCK + _BLOCK_BYTES]
        if not any(block):
            return NoiseReason.NULL
        is_block_0 = not reduce(xor, block[: _UID_BYTES + 1])
        card_id, form = (
            (block[:_UID_BYTES], CredentialKind.ID) if is_block_0 else (block, CredentialKind.IDENTIFIER)
        )
        return RawCredential(8 * len(card_id), int.from_bytes(card_id, "big"), check_of(frame), form)

    def _parse(self, data: bytes) -> list[ReaderEvent]:
        # After AA within a frame the module sends 00, so that AA BB only begins one.
        data = self._escape + data
        self._escape = _ESCAPE if data.endswith(_ESCAPE) else b""
        return super()._parse(data[: len(data) - len(self._escape)].replace(_STUFFED, _ESCAPE))

    def is_within_frame(self) -> bool:
        """True while bytes of an unfinished frame, or of noise, are held."""
        return bool(self._escape) or super().is_within_frame()

    def _flush(self) -> list[ReaderEvent]:
        escape, self._escape = self._escape, b""
        return [*super()._parse(escape), *super()._flush()]
