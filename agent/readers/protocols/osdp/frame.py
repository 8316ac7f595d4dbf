"""OSDP frames: encode commands, find and verify replies in received bytes."""

from __future__ import annotations

from binascii import crc_hqx
from typing import NamedTuple

MARK = b"\xff"  # drives the line before a frame; part of neither length nor check characters
_SOM = 0x53
_REPLY = 0x80
_NUMBER, _CRC, _SECURITY = 0x03, 0x04, 0x08  # bits of the control byte
_HEADER_BYTES = 5  # start, address, length (2), control
_LONGEST = 1440
_CRC_BYTES, _SUM_BYTES, MAC_BYTES = 2, 1, 4
_SHORTEST = _HEADER_BYTES + 1 + _SUM_BYTES
_CRC_START = 0x1D0F  # polynomial 1021, not reflected, no final XOR: crc_hqx() of these
SIGNED = frozenset({0x15, 0x16, 0x17, 0x18})  # types of security blocks whose frames have a MAC


class Frame(NamedTuple):
    """A reply whose check characters are valid. `data` is encrypted if `security` is of type 18.

    A tuple, because one is made for every reply and a frozen dataclass takes four times as long to make.
    """

    address: int
    number: int
    code: int
    data: bytes
    security: bytes = b""  # type and data of the security block
    mac: bytes = b""
    signed: bytes = b""  # what the MAC is of

    def __repr__(self) -> str:  # without card data and what is signed, which must not reach a log
        return f"Frame(address={self.address}, number={self.number}, code={self.code})"

    @property
    def security_type(self) -> int:
        """The type of the security block; 0 without one."""
        return self.security[0] if self.security else 0


def crc(data: bytes) -> bytes:
    """The CRC-16, as sent."""
    return crc_hqx(data, _CRC_START).to_bytes(_CRC_BYTES, "little")


def checksum(data: bytes) -> bytes:
    """The byte that makes the sum of all bytes 0."""
    return bytes([-sum(data) & 0xFF])


def unsigned_command(
    address: int, number: int, code: int, data: bytes = b"", *, security: bytes = b"", with_crc: bool = True
) -> bytes:
    """A command up to its data, with the length and control byte of the whole frame.

    `security`: type and data of its block. finished() completes it, with a MAC between if the type has one.
    """
    length = _HEADER_BYTES + 1 + len(data) + (_CRC_BYTES if with_crc else _SUM_BYTES)
    control = number | _CRC if with_crc else number
    block = b""
    if security:
        control |= _SECURITY
        block = bytes((len(security) + 1,)) + security
        length += len(block) + (MAC_BYTES if security[0] in SIGNED else 0)
    head = bytes((_SOM, address, length & 0xFF, length >> 8, control))
    return head + block + bytes((code,)) + data


def finished(command: bytes, mac: bytes = b"") -> bytes:
    """The whole frame of an unsigned_command(), with MARK before it and its check characters."""
    body = command + mac[:MAC_BYTES]
    with_crc = body[_HEADER_BYTES - 1] & _CRC
    return MARK + body + (crc(body) if with_crc else checksum(body))


class FrameBuffer:
    """Finds replies in received bytes. Bytes between frames, echoes and damaged frames are discarded."""

    def __init__(self) -> None:
        self._held = bytearray()
        self.damaged = 0  # starts of frames that were none, since clear()

    def __len__(self) -> int:
        return len(self._held)

    @property
    def missing(self) -> int:
        """How many bytes the frame that has begun lacks at least; 0 if none has."""
        held = self._held
        if not held:
            return 0
        return (int.from_bytes(held[2:4], "little") if len(held) >= _HEADER_BYTES else _SHORTEST) - len(held)

    def clear(self) -> None:
        """Discard what is held."""
        self._held.clear()
        self.damaged = 0

    def feed(self, data: bytes) -> list[Frame]:
        """The replies that these bytes complete, in order."""
        self._held += data
        return self._take()

    def flush(self) -> list[Frame]:
        """The replies among the held bytes, given that no more follow: the first start was a false one."""
        frames: list[Frame] = []
        while self._held:
            self.damaged += 1
            del self._held[0]
            frames += self._take()
        return frames

    def _take(self) -> list[Frame]:
        frames: list[Frame] = []
        held = self._held
        while (start := held.find(_SOM)) >= 0:
            del held[:start]
            if len(held) < _HEADER_BYTES:
                return frames
            length = int.from_bytes(held[2:4], "little")
            if not _SHORTEST <= length <= _LONGEST:
                del held[0]
            elif len(held) < length:
                return frames
            elif (frame := _parsed(bytes(held[:length]))) is None:
                self.damaged += 1
                del held[0]  # it may have begun within data: the next start is searched after it
            else:
                del held[:length]
                if frame.address & _REPLY:
                    frames.append(frame)
        held.clear()
        return frames


def _parsed(whole: bytes) -> Frame | None:
    """The frame of these bytes; None if its check characters or its structure are wrong."""
    control = whole[_HEADER_BYTES - 1]
    if control & _CRC:
        body, check = whole[:-_CRC_BYTES], crc
    else:
        body, check = whole[:-_SUM_BYTES], checksum
    if check(body) != whole[len(body) :]:
        return None
    begin, security = _HEADER_BYTES, b""
    if control & _SECURITY:
        block_bytes = body[begin] if len(body) > begin else 0
        security = body[begin + 1 : begin + block_bytes]
        if not security or len(security) + 1 != block_bytes:
            return None
        begin += block_bytes
    mac_bytes = MAC_BYTES if security and security[0] in SIGNED else 0
    end = len(body) - mac_bytes
    if begin >= end:
        return None
    return Frame(
        address=body[1],
        number=control & _NUMBER,
        code=body[begin],
        data=body[begin + 1 : end],
        security=security,
        mac=body[end:],
        signed=body[:end] if mac_bytes else b"",
    )
