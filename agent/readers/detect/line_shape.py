"""The text in a recording, and the line settings and checksums that its bytes show."""

from __future__ import annotations

import re
from binascii import crc_hqx
from collections.abc import Iterable
from functools import reduce
from operator import xor
from typing import Literal

_FEWEST_BYTES = 12
_CLEAN_SHARE = 0.98
_LONGEST_SHAPE = 80
_LINE_END = re.compile(rb"[\r\n\x00\x02\x03]+")
_CHECKSUM_BYTES_MIN = 5  # of an identifier and its checksum


def text_lines(data: bytes) -> list[str]:
    """The lines of clean text, empty if the bytes are no text: another line speed, or binary frames."""
    lines = [line.strip() for line in _LINE_END.split(data) if line.strip()]
    text = b"".join(lines)
    printable = sum(0x20 <= byte < 0x7F for byte in text)  # noqa: PLR2004 - printable ASCII
    if len(text) < _FEWEST_BYTES or printable < _CLEAN_SHARE * len(text):
        return []
    return [line.decode("ascii", "replace") for line in lines]


def masked(line: str) -> str:
    """The form of a line: every digit as 0, every letter as A."""
    return re.sub("[A-Za-z]", "A", re.sub("[0-9]", "0", line))[:_LONGEST_SHAPE]


def seven_bit_parity(data: bytes) -> Literal["even", "odd"] | None:
    """The parity if every byte is seven bits of text with a parity bit, as 7E1 is received at 8N1."""
    if len(data) < _FEWEST_BYTES or all(byte < 0x80 for byte in data):  # noqa: PLR2004 - the eighth bit
        return None
    sums = {byte.bit_count() % 2 for byte in data}
    if len(sums) > 1 or not text_lines(bytes(byte & 0x7F for byte in data)):
        return None
    return "odd" if sums.pop() else "even"


def ends_in_checksum(lines: Iterable[str]) -> bool:
    """True if most lines of hex end in the XOR, the sum, the negated sum or a CRC-16 of the bytes before.

    Not all of them: a line may be damaged.
    """
    frames = {bytes.fromhex(line) for line in lines if re.fullmatch("(?:[0-9A-Fa-f]{2})+", line)}
    return 2 * sum(map(_has_checksum, frames)) > len(frames)


def _has_checksum(frame: bytes) -> bool:
    if len(frame) < _CHECKSUM_BYTES_MIN:
        return False
    data, crc = frame[:-2], frame[-2:]
    crcs = [crc_hqx(data, 0), crc_hqx(data, 0xFFFF), _crc16_modbus(data)]
    return frame[-1] in (reduce(xor, frame[:-1]), sum(frame[:-1]) & 0xFF, -sum(frame[:-1]) & 0xFF) or any(
        crc in (value.to_bytes(2, "big"), value.to_bytes(2, "little")) for value in crcs
    )


def _crc16_modbus(data: bytes) -> int:
    """CRC-16 with polynomial A001, reflected."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value
