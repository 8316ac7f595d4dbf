"""R200, M100 and YRM100 frames: BB, type, command, length, signal, PC, EPC, CRC, sum, 7E."""

from __future__ import annotations

from binascii import crc_hqx

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.fixed_framer import ANY, FramedProtocol, Shape
from agent.readers.protocol import LineSettings
from agent.swipe import CardCheck

_HEADER = (b"\xbb", b"\x02", b"\x22")  # a notification of an inventory
_END = b"\x7e"
_SIGNAL, _PC, _EPC = 5, 6, 8
_SUM = -2
_PARAMETERS_BESIDE_EPC = 5  # signal strength, PC of two bytes, CRC of two
_EPC_BYTES = tuple(range(4, 34, 2))
# A response without a tag, and to a command of other software on the line: BB 01 FF 0001 15 16 7E.
_NO_TAG = (b"\xbb", b"\x01", ANY, b"\x00", b"\x01", ANY, ANY, _END)


def _shape(epc_bytes: int) -> Shape:
    length = _PARAMETERS_BESIDE_EPC + epc_bytes
    return (*_HEADER, b"\x00", bytes([length]), *[ANY] * length, ANY, _END)


class R200(FramedProtocol):
    """R200, M100, YRM100 and other UHF modules with BB..7E frames, set to read continuously."""

    repeats_while_held = True  # it reads continuously
    line = LineSettings(baudrate=115200)
    shapes = (*map(_shape, _EPC_BYTES), _NO_TAG)

    def read(self, frame: bytes) -> RawCredential | NoiseReason | None:
        """The EPC of a notification with its signal strength; None for "no tag"."""
        if sum(frame[1:_SUM]) & 0xFF != frame[_SUM]:
            return NoiseReason.CHECKSUM
        if frame[1:2] != _HEADER[1]:
            return None
        epc, crc = frame[_EPC : _SUM - 2], frame[_SUM - 2 : _SUM]
        if crc16(frame[_PC : _SUM - 2]) != int.from_bytes(crc, "big"):
            return NoiseReason.CHECKSUM
        signal_dbm = int.from_bytes(frame[_SIGNAL:_PC], "big", signed=True)
        return RawCredential(
            8 * len(epc),
            int.from_bytes(epc, "big"),
            CardCheck.CHECKSUM,
            CredentialKind.IDENTIFIER,
            signal_strength=float(signal_dbm),
        )


def crc16(data: bytes) -> int:
    """The CRC that a tag sends with PC and EPC: polynomial 1021, all ones at the start, inverted."""
    return crc_hqx(data, 0xFFFF) ^ 0xFFFF
