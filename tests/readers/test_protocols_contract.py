"""The contract of agent.readers.protocol, kept by every registered protocol."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.protocol import WireProtocol
from agent.readers.protocols import PROTOCOLS
from agent.readers.protocols.bits import LONGEST_LINE_BYTES
from agent.readers.protocols.noise import LONGEST_RUN_BYTES
from agent.readers.wiegand import DEFAULT_FORMATS, decode
from agent.swipe import CardRead, Check, Frame, Noise, Outcome, Reason, Word

ROWS = list(csv.DictReader((Path(__file__).parents[1] / "data" / "frames.csv").read_text().splitlines()))

HELD_BYTES_MAX = LONGEST_RUN_BYTES + LONGEST_LINE_BYTES


@dataclass(frozen=True)
class Sample:
    """A good frame, its word, and what ends noise so that a frame may begin."""

    frame: bytes
    word: Word
    noise_end: bytes = b""


TAG = Word(40, 0x3C00CE754C, Check.CHECKSUM)
SAMPLES = {
    "rdm6300": [
        Sample(b"\x023C00CE754CCB\x03", TAG),
        Sample(b"\x023C00CE754C\xcb\x03", TAG),
        Sample(b"\x020000000002\x02\x03", Word(40, 2, Check.CHECKSUM)),
        Sample(b"\x020000000003\x03\x03", Word(40, 3, Check.CHECKSUM)),
    ],
    "id12la": [Sample(b"\x023C00CE754CCB\r\n\x03", TAG)],
    "parallax": [Sample(b"\n0F0184F07A\r", Word(40, 0x0F0184F07A))],
    # A line of text can only begin where another ended.
    "bits": [
        Sample(b"26:2F657AE" + end, Word(26, 0x2F657AE), noise_end=b"\n") for end in (b"\r", b"\n", b"\r\n")
    ]
    + [
        Sample(b"W26:2f657ae\r\n", Word(26, 0x2F657AE), noise_end=b"\n"),
        Sample(b"10111101100101011110101110\r\n", Word(26, 0x2F657AE), noise_end=b"\n"),
        Sample(b"26:2F657AE\n", Word(26, 0x2F657AE), noise_end=b"\xff"),
    ],
}
CASES = [(name, sample) for name in PROTOCOLS for sample in SAMPLES[name]]

every_protocol = pytest.mark.parametrize("name", PROTOCOLS)
every_sample = pytest.mark.parametrize(("name", "sample"), CASES)

# Arbitrary bytes hardly ever look like a frame; pieces of frames do.
pieces = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [b"\x02", b"\x03", b"\n", b"\r", b"\r\n", b"26:", b"W", b"0", b"010063E9AE", b"25", b"x "]
    ),
    st.sampled_from([sample.frame for _, sample in CASES]),
    st.sampled_from([sample.frame[:-3] for _, sample in CASES]),
    st.builds(lambda byte, times: byte * times, st.binary(min_size=1, max_size=2), st.integers(100, 400)),
)
streams = st.lists(pieces, max_size=8).map(b"".join)


def frames_of(wire: WireProtocol, chunks: Sequence[bytes]) -> list[Frame]:
    return [frame for chunk in chunks for frame in wire.feed(chunk)]


def noise_bytes(frames: Sequence[Frame]) -> int:
    return sum(len(frame.raw) for frame in frames if isinstance(frame, Noise))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['protocol']}-{row['bytes']}")
def test_known_frames_have_their_known_outcomes(row: dict[str, str]) -> None:
    wire = PROTOCOLS[row["protocol"]]()

    frames = [*wire.feed(bytes.fromhex(row["bytes"])), *wire.silence()]

    outcomes = [decode(frame, DEFAULT_FORMATS) if isinstance(frame, Word) else frame for frame in frames]
    assert "; ".join(map(in_words, outcomes)) == row["outcomes"]


def in_words(outcome: Outcome) -> str:
    if isinstance(outcome, CardRead):
        return f"card {outcome.bits} {outcome.raw} {outcome.check}"
    return f"noise {outcome.reason}" if isinstance(outcome, Noise) else "key"


@every_sample
def test_a_frame_comes_out_with_its_last_byte_and_not_before(name: str, sample: Sample) -> None:
    wire = PROTOCOLS[name]()
    last = len(sample.frame.rstrip(b"\n")) if sample.frame.endswith(b"\r\n") else len(sample.frame)

    assert wire.feed(sample.frame[: last - 1]) == []
    assert wire.partial
    assert wire.feed(sample.frame[last - 1 : last]) == [sample.word]
    assert not wire.partial


@every_sample
@given(stream=streams)
def test_a_good_frame_is_found_after_any_noise_and_at_once(name: str, sample: Sample, stream: bytes) -> None:
    wire = PROTOCOLS[name]()
    wire.feed(stream + sample.noise_end)

    frames = wire.feed(sample.frame)

    assert [frame for frame in frames if isinstance(frame, Word)][-1:] == [sample.word]


@every_sample
@given(stream=streams)
def test_a_good_frame_is_found_after_any_noise_and_silence(name: str, sample: Sample, stream: bytes) -> None:
    wire = PROTOCOLS[name]()
    wire.feed(stream)
    wire.silence()

    assert wire.feed(sample.frame) == [sample.word]


@every_protocol
@given(stream=streams, data=st.data())
def test_the_same_frames_come_out_however_the_bytes_are_cut(
    name: str, stream: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, cut, by_byte = (PROTOCOLS[name]() for _ in range(3))

    expected = [*whole.feed(stream), *whole.silence()]

    assert [*frames_of(cut, chunks), *cut.silence()] == expected
    assert [*frames_of(by_byte, [bytes([byte]) for byte in stream]), *by_byte.silence()] == expected


@every_protocol
@given(stream=streams)
def test_what_is_held_never_grows_past_its_cap(name: str, stream: bytes) -> None:
    wire = PROTOCOLS[name]()
    wire.feed(stream)
    partial = wire.partial

    held = wire.silence()

    assert partial or not held
    assert noise_bytes(held) <= HELD_BYTES_MAX
    assert not wire.partial
    assert wire.silence() == []


@every_protocol
@given(stream=streams)
def test_a_reset_protocol_is_as_good_as_new(name: str, stream: bytes) -> None:
    wire, fresh = PROTOCOLS[name](), PROTOCOLS[name]()
    wire.feed(stream)

    wire.reset()

    assert not wire.partial
    assert [*wire.feed(stream), *wire.silence()] == [*fresh.feed(stream), *fresh.silence()]


@pytest.mark.parametrize("name", ["rdm6300", "id12la", "parallax"])
@given(stream=streams)
def test_every_byte_of_a_framed_stream_is_a_card_or_noise(name: str, stream: bytes) -> None:
    wire = PROTOCOLS[name]()
    lengths = {len(sample.frame) for sample in SAMPLES[name]}

    frames = [*wire.feed(stream), *wire.silence()]

    words = sum(isinstance(frame, Word) for frame in frames)
    assert words * min(lengths) <= len(stream) - noise_bytes(frames) <= words * max(lengths)


@every_protocol
@pytest.mark.parametrize("byte", [b"\x02", b"\n", b"0", b"G", b"\xff"])
def test_a_flood_of_one_byte_is_few_events(name: str, byte: bytes) -> None:
    wire = PROTOCOLS[name]()

    frames = wire.feed(byte * 10_000)

    assert len(frames) <= 10_000 // LONGEST_RUN_BYTES


@every_sample
def test_a_corrupted_digit_never_gives_the_card(name: str, sample: Sample) -> None:
    wire = PROTOCOLS[name]()
    corrupted = sample.frame[:5] + bytes([sample.frame[5] ^ 1]) + sample.frame[6:]

    frames = [*wire.feed(corrupted), *wire.silence()]

    assert sample.word not in frames


@pytest.mark.parametrize(("name", "sample"), [case for case in CASES if case[1].word.check is Check.CHECKSUM])
@given(data=st.data())
def test_no_corrupted_digit_gets_past_a_checksum(name: str, sample: Sample, data: st.DataObject) -> None:
    wire = PROTOCOLS[name]()
    place = data.draw(st.integers(1, 10))
    good = sample.frame[place : place + 1]
    # A hex digit says the same in either case.
    bad = data.draw(st.binary(min_size=1, max_size=1).filter(lambda byte: byte.upper() != good))
    corrupted = sample.frame[:place] + bad + sample.frame[place + 1 :]

    frames = [*wire.feed(corrupted), *wire.silence()]

    assert frames
    assert all(isinstance(frame, Noise) for frame in frames)


def test_a_good_frame_that_begins_inside_a_bad_one_is_found() -> None:
    wire = PROTOCOLS["rdm6300"]()
    good = b"\x02010063E9AE25\x03"

    frames = wire.feed(b"\x02010063E9AE" + good)

    assert frames == [Noise(Reason.TRUNCATED, b"\x02010063E9AE"), Word(40, 0x010063E9AE, Check.CHECKSUM)]


def test_each_broken_frame_counts_as_one() -> None:
    wire = PROTOCOLS["rdm6300"]()
    broken = b"\x02010063E9AE24\x03"

    assert wire.feed(broken * 3) == [Noise(Reason.CHECKSUM, broken)] * 3


def test_a_raw_checksum_of_the_wrong_value_is_noise_up_to_the_next_start() -> None:
    wire = PROTOCOLS["rdm6300"]()

    frames = [*wire.feed(b"\x02010063E9AE\x02\x03"), *wire.silence()]

    assert frames == [Noise(Reason.CHECKSUM, b"\x02010063E9AE"), Noise(Reason.SYNTAX, b"\x02\x03")]


def test_a_null_tag_without_checksum_is_noise() -> None:
    wire = PROTOCOLS["parallax"]()

    assert wire.feed(b"\nFFFFFFFFFF\r") == [Noise(Reason.NULL, b"\nFFFFFFFFFF\r")]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        (b"1:1", Word(1, 1)),
        (b"26:2", Word(26, 2)),
        (b"256:" + b"F" * 64, Word(256, (1 << 256) - 1)),
        (b"01" * 128, Word(256, int("01" * 128, 2))),
        (b"\xff\x00W26:2", Word(26, 2)),
    ],
)
def test_a_line_names_its_word_right_aligned(line: bytes, word: Word) -> None:
    wire = PROTOCOLS["bits"]()

    frames = wire.feed(line + b"\n")

    assert frames[-1] == word


@pytest.mark.parametrize(
    ("line", "reasons"),
    [
        (b"0:0", [Reason.SYNTAX]),
        (b"026:2F657AE", [Reason.SYNTAX]),
        (b":2F657AE", [Reason.SYNTAX]),
        (b"26:", [Reason.SYNTAX]),
        (b"2F657AE", [Reason.SYNTAX]),
        (b"26:2F657AE:1", [Reason.SYNTAX]),
        (b" 26:2F657AE", [Reason.SYNTAX]),
        (b"26:2F657AE ", [Reason.SYNTAX]),
        (b"26:2F6\x0057AE", [Reason.SYNTAX]),
        (b"26:02F657AE", [Reason.LENGTH]),
        (b"26:8000000", [Reason.LENGTH]),
        (b"257:0", [Reason.LENGTH]),
        (b"0" * 257, [Reason.OVERSIZED, Reason.OVERSIZED]),
        (b"boot 26:2F657AE", [Reason.SYNTAX]),
        # Zeros and ones behind static may have lost their beginning: a shorter card.
        (b"\xff10111101100101011110101110", [Reason.STRAY, Reason.SYNTAX]),
    ],
)
def test_a_line_that_names_no_word_is_noise(line: bytes, reasons: list[Reason]) -> None:
    wire = PROTOCOLS["bits"]()

    frames = wire.feed(line + b"\r\n")

    assert [frame.reason for frame in frames if isinstance(frame, Noise)] == reasons
    assert len(frames) == len(reasons)


def test_silence_ends_a_spoilt_line_even_when_nothing_of_it_is_held() -> None:
    wire = PROTOCOLS["bits"]()
    wire.feed(b"x" * LONGEST_RUN_BYTES)

    assert wire.partial
    assert wire.silence() == []
    assert wire.feed(b"26:2F657AE\n") == [Word(26, 0x2F657AE)]


def test_blank_lines_are_nothing() -> None:
    assert PROTOCOLS["bits"]().feed(b"\r\n\n\r\r\n") == []


@every_protocol
def test_no_protocol_shows_what_it_holds(name: str) -> None:
    wire = PROTOCOLS[name]()

    frames = [*wire.feed(b"\x020123456789"), *wire.feed(b"\n0123456789"), *wire.silence()]

    assert "1234" not in repr(wire) + repr(frames)
