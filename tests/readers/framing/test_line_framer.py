"""STX, ETX, NUL and spaces around a line are framing in every line protocol; inside it they are static."""

from __future__ import annotations

import math

import pytest

from agent.readers.events import Noise, RawCredential, ReaderEvent
from agent.readers.framing.line_framer import LONGEST_PADDING_BYTES, LineProtocol
from agent.readers.protocols import PROTOCOLS, make_protocol
from tests.readers.protocols.test_contract import CASES, Sample, make

LINES = [
    (name, sample)
    for name, sample in CASES
    if issubclass(PROTOCOLS[name], LineProtocol)
    and isinstance(sample.word, RawCredential)
    and name != "s4a"  # there any byte may be a key
]


def events_of(name: str, sample: Sample, data: bytes) -> list[ReaderEvent]:
    wire = make(name, sample)
    return [*wire.receive_data(data, 0.0), *wire.handle_timeout(math.inf)]


@pytest.mark.parametrize(("name", "sample"), LINES)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"\x02", b"\x03"),
        (b"\x02", b"\r\n\x03"),
        (b"\x00\x00", b"\r\n"),
        (b"  ", b"  \r\n"),
        (b"\t", b"\x00\r"),
        (b"\x02 ", b" \x03\r\n"),
    ],
)
def test_twenty_framed_cards_are_twenty_cards_and_no_noise(
    name: str, sample: Sample, before: bytes, after: bytes
) -> None:
    text = sample.frame.strip(b"\r\n")

    events = events_of(name, sample, (before + text + after) * 20)

    assert events == [sample.word] * 20


def test_a_framed_line_is_returned_with_its_etx() -> None:
    wire = make_protocol("line", {"template": "{hex}"})

    assert [type(event) for event in wire.receive_data(b"\x021F70CF\x03", 0.0)] == [RawCredential]


@pytest.mark.parametrize("byte", [b"\x00", b"\x02", b"\x03"])
def test_a_framing_byte_inside_a_line_is_noise_and_no_shorter_card(byte: bytes) -> None:
    wire = make_protocol("twn4")

    events = [*wire.receive_data(b"04A1B2C3" + byte + b"D4E5F6\r\n", 0.0), *wire.handle_timeout(math.inf)]

    assert events
    assert all(isinstance(event, Noise) for event in events)


def test_a_data_line_held_low_is_noise() -> None:
    wire = make_protocol("twn4")

    events = [*wire.receive_data(b"\x00" * 1000, 0.0), *wire.handle_timeout(math.inf)]

    assert sum(len(event.raw) for event in events if isinstance(event, Noise)) == 1000 - LONGEST_PADDING_BYTES


def test_padding_after_half_a_line_is_noise_once_it_is_too_long() -> None:
    wire = make_protocol("twn4")

    events = [*wire.receive_data(b"00B6" + b"\x00" * 100 + b"D7B5\r", 0.0), *wire.handle_timeout(math.inf)]

    assert all(isinstance(event, Noise) for event in events)
    assert wire.receive_data(b"00B6D7B5\r", 0.0) != []


def test_an_etx_ends_a_framed_line_of_static_however_the_bytes_are_cut() -> None:
    data = b"\x02 \xaa\x00\x0326:2F657AE\r\n"
    whole, by_byte = make_protocol("bits"), make_protocol("bits")

    expected = whole.receive_data(data, 0.0)

    assert [event for byte in data for event in by_byte.receive_data(bytes([byte]), 0.0)] == expected
    assert isinstance(expected[-1], RawCredential)
