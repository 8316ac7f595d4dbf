from __future__ import annotations

import pytest

from agent.readers.events import CredentialKind, Noise, NoiseReason, RawCredential
from agent.readers.protocols import make_protocol

TAG = b"[D][wiegand:095]: received 26-bit tag: 4002518\r\n"
INVALID = b"\x1b[0;33m[12:00:01.250][W][wiegand:097]: invalid parity\x1b[0m\r\n"
WORD = RawCredential(24, 0x3D12D6, form=CredentialKind.DATA, unpadded=True)


@pytest.mark.parametrize("noise", [b"~", b"\xff", b"~\xff"])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_noise_without_a_line_end_holds_a_tag_no_longer_than_its_parity_line_could_be(
    noise: bytes, at_once: int
) -> None:
    wire = make_protocol("esphome")
    wire.receive_data(TAG, 0.0)

    frames = [
        frame for _ in range(0, 100, at_once) for frame in wire.receive_data((noise * 1000)[:at_once], 0.0)
    ]

    assert [frame for frame in frames if isinstance(frame, RawCredential)] == [WORD]


def test_the_parity_line_is_waited_for_behind_noise_too() -> None:
    wire = make_protocol("esphome")

    frames = [*wire.receive_data(TAG + b"\xff~", 0.0), *wire.receive_data(INVALID, 0.0)]

    assert frames == [Noise(NoiseReason.STRAY), Noise(NoiseReason.PARITY)]


def test_a_parity_line_that_comes_too_late_says_nothing_of_the_tag() -> None:
    wire = make_protocol("esphome")

    frames = wire.receive_data(TAG + b"~" * 80 + INVALID, 0.0)

    assert frames == [WORD, Noise(NoiseReason.SYNTAX)]


@pytest.mark.parametrize("at_once", [1, 31, 1000])
def test_what_a_tag_has_waited_for_counts_however_the_bytes_are_cut(at_once: int) -> None:
    wire = make_protocol("esphome")
    wire.receive_data(TAG, 0.0)
    late = b"\xff" * 30 + b"\n" + INVALID

    frames = [
        frame
        for at in range(0, len(late), at_once)
        for frame in wire.receive_data(late[at : at + at_once], 0.0)
    ]

    assert [frame for frame in frames if isinstance(frame, RawCredential)] == [WORD]
