"""Frames of Chafon UHF readers: length, address, command, status, EPC and CRC-16."""

from __future__ import annotations

from agent.readers.events import CredentialKind, NoiseReason, RawCredential
from agent.readers.framing.fixed_framer import ANY, FramedProtocol, Shape
from agent.readers.protocol import LineSettings
from agent.swipe import CardCheck

_INVENTORY = b"\x01"
_ACTIVE = b"\xee"
_FOUND = bytes(range(1, 5))  # all tags, and parts of a longer inventory
_COMMANDS = _INVENTORY + _ACTIVE
_CRC_BYTES = 2
_EPC_BYTES = tuple(range(4, 34, 2))  # EPCs are words of 16 bits
_EPC_OF_INVENTORY = _EPC_OF_288 = 6
_EPC_OF_18 = 4


def _inventory(epc_bytes: int) -> Shape:
    """One tag: number of tags, length of the EPC, EPC."""
    head = (bytes([epc_bytes + 7]), ANY, _INVENTORY, _FOUND, b"\x01", bytes([epc_bytes]))
    return (*head, *[ANY] * (epc_bytes + _CRC_BYTES))


def _active_18(epc_bytes: int) -> Shape:
    return (bytes([epc_bytes + 5]), ANY, _ACTIVE, b"\x00", *[ANY] * (epc_bytes + _CRC_BYTES))


def _active_288(epc_bytes: int) -> Shape:
    """Antenna, length of the EPC, EPC, signal strength."""
    head = (bytes([epc_bytes + 8]), ANY, _ACTIVE, b"\x00", ANY, bytes([epc_bytes]))
    return (*head, *[ANY] * (epc_bytes + 1 + _CRC_BYTES))


_NO_TAG = (b"\x05", ANY, _COMMANDS, ANY, ANY, ANY)


class UhfReader18(FramedProtocol):
    """Chafon UHFReader18 and UHFReader288 in active mode (EPC Class 1 Gen 2)."""

    repeats_while_held = True  # in active mode
    line = LineSettings(baudrate=57600)
    shapes = (
        *map(_inventory, _EPC_BYTES),
        *map(_active_18, _EPC_BYTES),
        *map(_active_288, _EPC_BYTES),
        _NO_TAG,
    )

    def read(self, frame: bytes) -> RawCredential | NoiseReason | None:
        """The EPC of a frame; None for a status without a tag."""
        if crc16(frame):
            return NoiseReason.CHECKSUM
        if len(frame) == len(_NO_TAG):
            return None
        if frame[2:3] == _INVENTORY:
            epc = frame[_EPC_OF_INVENTORY:-_CRC_BYTES]
        elif len(frame) % 2:  # of an EPC of whole words the length byte differs by one
            epc = frame[_EPC_OF_288 : -_CRC_BYTES - 1]
        else:
            epc = frame[_EPC_OF_18:-_CRC_BYTES]
        return RawCredential(
            8 * len(epc), int.from_bytes(epc, "big"), CardCheck.CHECKSUM, CredentialKind.IDENTIFIER
        )


def crc16(data: bytes) -> int:
    """CRC-16 with polynomial 8408, reflected; 0 over data with its CRC, least significant byte first."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc


def _crc_of_byte(byte: int) -> int:
    crc = byte
    for _ in range(8):
        crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    return crc


_CRC_TABLE = tuple(map(_crc_of_byte, range(256)))
