from __future__ import annotations

import math

import pytest

from agent.readers.events import Noise, NoiseReason, RawCredential
from agent.readers.framing.noise import LONGEST_RUN_BYTES
from agent.readers.protocols import PROTOCOLS


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"1:1", RawCredential(1, 1)),
        (b"26:0000002", RawCredential(26, 2)),
        (b"256:" + b"F" * 64, RawCredential(256, (1 << 256) - 1)),
        (b"01" * 128, RawCredential(256, int("01" * 128, 2))),
        (b"\xff\x00W26:0000002", RawCredential(26, 2)),
        (b"~W26:0000002", RawCredential(26, 2)),
        (b"boot 26:2F657AE", RawCredential(26, 0x2F657AE)),
        (b"26:2F6 26:2F657AE", RawCredential(26, 0x2F657AE)),
        # No count begins with 0, or with a letter.
        (b"026:2F657AE", RawCredential(26, 0x2F657AE)),
        (b"FW26:2F657AE", RawCredential(26, 0x2F657AE)),
    ],
)
def test_a_line_names_its_word_right_aligned(line: bytes, word: RawCredential) -> None:
    wire = PROTOCOLS["bits"]()

    frames = wire.receive_data(line + b"\n", 0.0)

    assert frames[-1] == word


@pytest.mark.parametrize(
    ("line", "reasons"),
    [
        (b"0:0", [NoiseReason.SYNTAX]),
        (b":2F657AE", [NoiseReason.SYNTAX]),
        (b"26:", [NoiseReason.SYNTAX]),
        (b"2F657AE", [NoiseReason.SYNTAX]),
        (b"26:2F657AE:1", [NoiseReason.SYNTAX]),
        (b"26:F657AE", [NoiseReason.LENGTH]),
        (b"26:2F6\x0057AE", [NoiseReason.SYNTAX]),
        (b"26:2F6~57AE", [NoiseReason.SYNTAX]),
        (b"26:02F657AE", [NoiseReason.LENGTH]),
        (b"26:8000000", [NoiseReason.LENGTH]),
        (b"257:0", [NoiseReason.LENGTH]),
        (b"526:2F657AE", [NoiseReason.LENGTH]),
        (b"0" * 257, [NoiseReason.OVERSIZED, NoiseReason.SYNTAX]),
        # Binary digits after static may be without their beginning: a shorter card.
        (b"\xff10111101100101011110101110", [NoiseReason.STRAY, NoiseReason.SYNTAX]),
        (b"~10111101100101011110101110", [NoiseReason.STRAY, NoiseReason.SYNTAX]),
        # So may a count whose digits are not as many as it says, and a clock is none.
        (b"~26:2", [NoiseReason.STRAY, NoiseReason.SYNTAX]),
        (b"~6:2F657AE", [NoiseReason.STRAY, NoiseReason.SYNTAX]),
        (b"~26:FF657AE", [NoiseReason.STRAY, NoiseReason.LENGTH]),
        (b"up 7:59", [NoiseReason.STRAY, NoiseReason.SYNTAX]),
        # A digit of a 37-bit word that became a colon: what follows is no card of 26 bits.
        (b"37:26:2F657AE", [NoiseReason.SYNTAX]),
    ],
)
def test_a_line_that_names_no_word_is_noise(line: bytes, reasons: list[NoiseReason]) -> None:
    wire = PROTOCOLS["bits"]()

    frames = wire.receive_data(line + b"\r\n", 0.0)

    assert [frame.reason for frame in frames if isinstance(frame, Noise)] == reasons
    assert len(frames) == len(reasons)


def test_silence_ends_a_line_of_noise_even_when_nothing_of_it_is_held() -> None:
    wire = PROTOCOLS["bits"]()
    wire.receive_data(b"x" * 2 * LONGEST_RUN_BYTES, 0.0)

    assert wire.next_timeout() is not None
    assert wire.handle_timeout(math.inf) == []
    assert wire.receive_data(b"26:2F657AE\n", 0.0) == [RawCredential(26, 0x2F657AE)]


def test_blank_lines_are_nothing() -> None:
    assert PROTOCOLS["bits"]().receive_data(b"\r\n\n\r\r\n", 0.0) == []
