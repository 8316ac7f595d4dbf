"""Processor time of each protocol for a megabyte of frames, and for a megabyte of noise."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import xor

from agent.readers.cards.decoder import Decoder, encode
from agent.readers.events import RawCredential
from agent.readers.protocol import WireProtocol
from agent.readers.protocols import STANDALONE, make_protocol, r200, uhfreader18
from agent.settings import DEFAULT_FORMATS
from agent.swipe import CardRead
from bench.figures import Figure

_BYTES = 1_000_000
_CHUNK_BYTES = 4096  # as much as one read of the port returns
_TARGET_S = 0.5  # half a core at 1 MB/s
_NOISE_TARGET_S = 5.0  # half a core for eight lines of 115200 baud, 92 kB/s in all
_ROUNDS = 3
_SEED = 7

_OPTIONS = {"line": {"pattern": r"CARD (?P<bits>\d+) (?P<raw>[0-9A-F]+)"}}


def run() -> list[Figure]:
    """The processor time of each protocol, and of the slowest one for noise."""
    figures = []
    for name in STANDALONE:
        data, cards = _frames(name)
        figures.append(
            _figure(
                f"{name}: 1 MB of frames", min(_decode(name, data, cards) for _ in range(_ROUNDS)), _TARGET_S
            )
        )
    for title, noise in _noises():
        worst, name = max((_parse(name, noise), name) for name in STANDALONE)
        figures.append(_figure(f"1 MB of {title}, worst of all: {name}", worst, _NOISE_TARGET_S))
    return figures


def _figure(name: str, seconds: float, target_s: float) -> Figure:
    return Figure(name, f"{seconds:.2f} s CPU", f"<= {target_s:.2f} s", seconds <= target_s)


def _decode(name: str, data: bytes, cards: int) -> float:
    """Seconds of CPU from bytes to cards. Raises ValueError if a card is missing."""
    wire, decoder = _make(name), Decoder(DEFAULT_FORMATS)
    seen = 0
    started = time.process_time()
    for start in range(0, len(data), _CHUNK_BYTES):
        for frame in wire.receive_data(data[start : start + _CHUNK_BYTES], 0.0):
            if isinstance(frame, RawCredential) and isinstance(decoder(frame), CardRead):
                seen += 1
    seconds = time.process_time() - started
    if seen != cards:
        raise ValueError(f"{name}: {seen} cards read of {cards}")
    return seconds


def _parse(name: str, data: bytes) -> float:
    wire = _make(name)
    started = time.process_time()
    for start in range(0, len(data), _CHUNK_BYTES):
        wire.receive_data(data[start : start + _CHUNK_BYTES], 0.0)
    return time.process_time() - started


def _make(name: str) -> WireProtocol:
    return make_protocol(name, _OPTIONS.get(name, {}))


def _frames(name: str) -> tuple[bytes, int]:
    """About a megabyte of frames with random cards, and their number."""
    dice = random.Random(_SEED)  # noqa: S311 - card numbers for a measurement
    frame_of = _FRAMES[name]
    frames = []
    size = 0
    while size < _BYTES:
        frames.append(frame_of(dice.getrandbits(8) or 1, dice.getrandbits(16)))
        size += len(frames[-1])
    return b"".join(frames), len(frames)


def _noises() -> Iterable[tuple[str, bytes]]:
    dice = random.Random(_SEED)  # noqa: S311 - line noise for a measurement
    yield "random noise", dice.randbytes(_BYTES)
    yield "start bytes", b"\x02" * _BYTES
    yield "half a frame over and over", b"\x02010063E9AE\xcd\xdc\x00\x81\x04:" * (_BYTES // 17)


def _summed(head: bytes, body: bytes, tail: bytes = b"") -> bytes:
    """A frame with the XOR of its body after it."""
    return head + body + bytes([reduce(xor, body)]) + tail


def _tag(facility: int, number: int) -> str:
    """Ten hex digits and two of checksum."""
    tag = bytes([facility, 0, 0x63, number >> 8, number & 0xFF])
    return f"{tag.hex()}{reduce(xor, tag):02x}".upper()


def _uid(facility: int, number: int) -> bytes:
    return bytes([0x6B, facility, number >> 8, number & 0xFF])


_EPC = bytes.fromhex("30751FEB705C5904")


def _with_sum(data: bytes) -> bytes:
    """A line of a HID MaxiProx."""
    return b"%s%02X\r\n" % (data.hex().upper().encode(), sum(data) & 0xFF)


def _r200(epc: bytes) -> bytes:
    with_pc = b"\x34\x00" + epc
    body = bytes([2, 0x22, 0, len(epc) + 5, 0xC9]) + with_pc + r200.crc16(with_pc).to_bytes(2, "big")
    return b"\xbb" + body + bytes([sum(body) & 0xFF]) + b"\x7e"


def _sm130(uid: bytes) -> bytes:
    body = bytes([0, 2 + len(uid), 0x82, 2]) + uid
    return b"\xff" + body + bytes([sum(body) & 0xFF])


def _uhfreader18(epc: bytes) -> bytes:
    data = bytes([len(epc) + 7, 0, 1, 3, 1, len(epc)]) + epc
    return data + uhfreader18.crc16(data).to_bytes(2, "little")


def _wl134(number: int) -> bytes:
    digits = f"{number:010X}"[::-1] + f"{900:04X}"[::-1] + "01" + "0" * 10
    checksum = reduce(xor, digits.encode())
    return b"\x02" + digits.encode() + bytes([checksum, checksum ^ 0xFF]) + b"\x03"


_Frame = Callable[[int, int], bytes]
_FRAMES: Mapping[str, _Frame] = {
    "bits": lambda f, n: b"26:%07X\r\n" % encode("H10301", f, n),
    "elatec-bits": lambda f, n: b"1A%08X\r" % (encode("H10301", f, n) << 6),
    "elatec-inditag": lambda f, n: b":%s%02X\r\n" % (_uid(f, n).hex().encode(), -sum(_uid(f, n)) & 0xFF),
    # With the line end of some modules: there is no gap in this stream.
    "em18": lambda f, n: _tag(f, n).encode() + b"\r\n",
    "esphome": lambda f, n: b"[I][RAW:031]: received raw 26 bits, value %x\r\n" % encode("H10301", f, n),
    "gwiot7941": lambda f, n: _summed(b"\x02", b"\x09\x01" + _uid(f, n), b"\x03"),
    "gwiot7941w": lambda f, n: _summed(b"\xcd\xdc", b"\x00\x81\x04" + _uid(f, n)),
    "id12la": lambda f, n: b"\x02%s\r\n\x03" % _tag(f, n).encode(),
    "idteck": lambda f, n: _summed(b"", b"\x02%s\x03" % _uid(f, n).hex().encode()),
    "line": lambda f, n: b"CARD 26 %07X\r\n" % encode("H10301", f, n),
    "longrfid": lambda f, n: _summed(
        b"\xaa", b"\x0f\x08\x00\x03\x84\x00" + (f << 16 | n).to_bytes(4, "big"), b"\xbb"
    ),
    "maxiprox": lambda f, n: _with_sum((1 << 37 | 1 << 26 | encode("H10301", f, n)).to_bytes(6, "big")),
    "monkeyboard": lambda f, n: b"Wiegand HEX = %X, DECIMAL = %d, Type W26\r\n" % (f << 16 | n, f << 16 | n),
    "parallax": lambda f, n: b"\n%s\r" % _tag(f, n)[:10].encode(),
    "r200": lambda f, n: _r200(_EPC + _uid(f, n)),
    "rdm6300": lambda f, n: b"\x02%s\x03" % _tag(f, n).encode(),
    "rfideas": lambda f, n: b"%05d\r" % (n or f),
    "s4a": lambda f, n: b"%010d\r\n" % (f << 16 | n),
    "sm130": lambda f, n: _sm130(_uid(f, n)),
    "twn4": lambda f, n: b"%s\r" % _uid(f, n).hex().encode(),
    "twn4-simple": lambda f, n: b"0001802004%s\r" % _uid(f, n).hex().encode(),
    "uhfreader18": lambda f, n: _uhfreader18(_EPC + _uid(f, n)),
    "wg2rs232": lambda f, n: b"%06X\r" % (f << 16 | n),
    "wie232": lambda f, n: b"%06X\r" % (f << 16 | n),
    "wl134": lambda f, n: _wl134(f << 16 | n),
    "yaawl": lambda f, n: b"Card readed: 24bits / %06X\r\n" % (f << 16 | n),
    "yhy": lambda f, n: _summed(
        b"\xaa\xbb", b"\x12\x51" + _uid(f, n) + bytes([reduce(xor, _uid(f, n))]) + b"\x08" * 11
    ),
}
