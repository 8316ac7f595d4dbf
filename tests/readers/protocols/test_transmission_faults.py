"""One fault on the serial line makes no card that was not presented, or one that says it is not checked."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator

import pytest

from agent.readers.cards.decoder import Decoder
from agent.readers.events import RawCredential
from agent.readers.protocols import PROTOCOLS, make_protocol
from agent.settings import DEFAULT_FORMATS
from agent.swipe import CardCheck, CardRead
from tests.readers.protocols.test_contract import CASES, SAMPLES, Sample, make

# While a card is held its frame is repeated, with gaps or without.
REPEATS = 2
GAP = None
# What the docstring of a protocol must say if a fault may make another card with the check "none".
EXPLAINED = "detected"
# No checksum, and a parity that an altered digit may leave valid.
UNCHECKED_DIGITS = frozenset(
    {"bits", "elatec-bits", "esphome", "line", "twn4-simple", "wg2rs232", "wie232", "yaawl"}
)


def cards_of(name: str, sample: Sample, pieces: list[bytes | None]) -> list[CardRead]:
    """The cards of a stream; None is a gap long enough for the silence timer."""
    wire, decoder = make(name, sample), Decoder(DEFAULT_FORMATS)
    events = []
    for piece in pieces:
        events += wire.handle_timeout(math.inf) if piece is None else wire.receive_data(piece, 0.0)
    events += wire.handle_timeout(math.inf)
    outcomes = [decoder(event) for event in events if isinstance(event, RawCredential)]
    return [outcome for outcome in outcomes if isinstance(outcome, CardRead)]


def others(name: str, sample: Sample, faulty_frames: Iterable[bytes]) -> list[CardRead]:
    """The cards that were not presented, of streams with one of the faulty frames."""
    presented = {(card.bits, card.raw) for card in cards_of(name, sample, [sample.frame, GAP])}
    return [
        card
        for faulty in faulty_frames
        for stream in streams_of(sample.frame, faulty)
        for card in cards_of(name, sample, stream)
        if (card.bits, card.raw) not in presented
    ]


def streams_of(frame: bytes, faulty: bytes) -> Iterator[list[bytes | None]]:
    """A faulty frame among good ones, in one read or with gaps."""
    yield [frame + faulty + frame * REPEATS]
    yield [frame, GAP, faulty, GAP, frame]


def faults(frame: bytes) -> Iterator[bytes]:
    """Each single byte lost, doubled; and the port opened at each byte."""
    for place in range(len(frame)):
        yield frame[:place] + frame[place + 1 :]
        yield frame[:place] + frame[place : place + 1] + frame[place:]
        yield frame[place:]


def alterations(frame: bytes, *, every_bit: bool) -> Iterator[bytes]:
    """Each single bit of each byte altered, or one bit of each byte."""
    for place, byte in enumerate(frame):
        for bit in range(8) if every_bit else [place % 8]:
            yield frame[:place] + bytes([byte ^ 1 << bit]) + frame[place + 1 :]


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_a_lost_or_doubled_byte_and_a_late_start_make_no_other_card_that_counts_as_checked(
    name: str, sample: Sample
) -> None:
    found = others(name, sample, faults(sample.frame))

    assert {card.check for card in found} <= {CardCheck.NONE}
    assert not found or EXPLAINED in (inspect.getdoc(PROTOCOLS[name]) or "")


@pytest.mark.parametrize(
    ("name", "options", "whole"),
    [
        ("wie232", {}, b"7A5B3C19E\r\n"),  # the 35 data bits of a 37-bit card
        ("wg2rs232", {}, b"7A5B3C19E\r\n"),
        ("rfideas", {"bits": 35}, b"32844808606\r\n"),
        ("rfideas", {"bits": 35, "digits": "hex"}, b"7A5B3C19E\r\n"),
    ],
)
def test_a_lost_digit_that_cannot_be_detected_leaves_the_check_none_and_the_docstring_says_why(
    name: str, options: dict[str, object], whole: bytes
) -> None:
    found = []
    for place in range(len(whole) - 2):
        wire = make_protocol(name, options)
        found += wire.receive_data(whole[:place] + whole[place + 1 :], 0.0)

    cards = [one for one in found if isinstance(one, RawCredential)]
    assert cards
    assert {card.check for card in cards} == {CardCheck.NONE}
    text = " ".join((inspect.getdoc(PROTOCOLS["wie232" if name == "wg2rs232" else name]) or "").split())
    assert "lost" in text
    assert EXPLAINED in text


@pytest.mark.parametrize(("name", "sample"), CASES)
def test_an_altered_bit_makes_no_other_card_with_a_valid_checksum(name: str, sample: Sample) -> None:
    every_bit = sample is SAMPLES[name][0]

    found = others(name, sample, alterations(sample.frame, every_bit=every_bit))

    assert CardCheck.CHECKSUM not in {card.check for card in found}
    if name not in UNCHECKED_DIGITS:
        assert {card.check for card in found} <= {CardCheck.NONE}
    assert not found or EXPLAINED in (inspect.getdoc(PROTOCOLS[name]) or "")


@pytest.mark.parametrize("opened_at", range(12))
@pytest.mark.parametrize("gap", [True, False])
def test_an_em18_opened_within_a_held_card_gives_this_card_or_none(opened_at: int, gap: bool) -> None:  # noqa: FBT001 - a case
    sample = SAMPLES["em18"][0]
    stream: list[bytes | None] = [sample.frame[opened_at:]]
    for _ in range(40):
        stream += [GAP, sample.frame] if gap else [sample.frame]

    cards = cards_of("em18", sample, stream)

    assert {card.raw for card in cards} <= {"3C00CE754C"}
    assert cards or not gap


def test_an_em18_without_gaps_gives_each_card_of_a_buffer_that_was_not_read_for_a_while() -> None:
    frames = [b"3C00CE754CCB", b"4500C5D1E9B8", b"010063E9AE25"]

    cards = cards_of("em18", SAMPLES["em18"][0], [b"".join(frames)])

    assert [card.raw.encode() for card in cards] == [frame[:10] for frame in frames]


def test_an_em18_run_that_is_too_long_is_the_same_noise_however_it_is_divided() -> None:
    run = b"1" + b"0" * 257
    whole, divided = (make("em18", SAMPLES["em18"][0]) for _ in range(2))

    expected = [*whole.receive_data(run, 0.0), *whole.handle_timeout(math.inf)]
    events = [*divided.receive_data(run[:257], 0.0), *divided.receive_data(run[257:], 0.0)]

    assert [*events, *divided.handle_timeout(math.inf)] == expected
