"""The options of every protocol: another order of bytes or bits, and cards that must be read twice."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from agent.readers.events import Key, Noise, NoiseReason, RawCredential
from agent.readers.framing.screening import COMMON_OPTIONS
from agent.readers.protocols import STANDALONE, make_protocol
from tests.readers.protocols.test_contract import SAMPLES

GHOST = b"\x02BC7DDFFDDF3C\x03"
CARD = b"\x023C00CE754CCB\x03"


def values(events: Sequence[object]) -> list[str]:
    return [f"{event.value:X}" for event in events if isinstance(event, RawCredential)]


@pytest.mark.parametrize("name", STANDALONE)
def test_every_protocol_takes_the_options_and_gives_the_card_unchanged_by_their_defaults(name: str) -> None:
    sample = SAMPLES[name][0]
    defaults = {key: option.default for key, option in COMMON_OPTIONS.items()}
    wire = make_protocol(
        name, {**sample.options, **defaults} if name != "line" else {"template": "CARD {bits} {raw}"}
    )

    events = [*wire.receive_data(sample.frame, 0.0), *wire.handle_timeout(math.inf)]

    assert events == [sample.word]


def test_reversed_bytes_are_the_number_on_the_label() -> None:
    wire = make_protocol("wg2rs232", {"byte_order": "reversed"})

    assert values(wire.receive_data(b"B31B18BB\r\n", 0.0)) == ["BB181BB3"]


def test_reversed_bits_of_each_byte_are_the_number_on_the_label() -> None:
    wire = make_protocol("rdm6300", {"bit_order": "reversed"})

    (value,) = values(wire.receive_data(b"\x02010EEFEDC5C8\x03", 0.0))

    assert int(value, 16) & 0xFFFF_FFFF == 1_895_282_595


def test_a_card_that_is_not_whole_bytes_keeps_its_order() -> None:
    wire = make_protocol("bits", {"byte_order": "reversed", "bit_order": "reversed"})

    assert values(wire.receive_data(b"26:2F657AE\n", 0.0)) == ["2F657AE"]


def test_a_tag_that_was_read_once_is_noise_after_a_second() -> None:
    wire = make_protocol("rdm6300", {"confirm_reads": 2})

    assert wire.receive_data(GHOST, 0.0) == []
    due = wire.next_timeout()
    assert due == 1.0
    assert wire.handle_timeout(0.9) == []
    assert wire.handle_timeout(due) == [Noise(NoiseReason.UNCONFIRMED)]
    assert wire.next_timeout() is None


def test_a_held_card_comes_with_its_second_read_and_makes_no_noise() -> None:
    wire = make_protocol("rdm6300", {"confirm_reads": 2})

    events = [wire.receive_data(CARD, 0.065 * read) for read in range(5)]

    assert [len(some) for some in events] == [0, 1, 1, 1, 1]
    assert wire.handle_timeout(10.0) == []


def test_ghosts_between_the_reads_of_a_card_do_not_hide_it() -> None:
    wire = make_protocol("rdm6300", {"confirm_reads": 2})

    events = [*wire.receive_data(CARD + GHOST, 0.0), *wire.receive_data(CARD, 0.1)]

    assert values(events) == ["3C00CE754C"]


def test_keys_need_no_confirmation_and_a_reset_forgets_the_reads() -> None:
    wire = make_protocol("idteck", {"confirm_reads": 2})

    assert wire.receive_data(b"\x021234\x03\x05", 0.0) == [Key()]
    wire = make_protocol("rdm6300", {"confirm_reads": 2})
    wire.receive_data(CARD, 0.0)
    wire.reset()
    assert wire.receive_data(CARD, 0.1) == []


def test_a_polled_protocol_is_still_polled() -> None:
    plain, screened = make_protocol("sm130"), make_protocol("sm130", {"confirm_reads": 2})

    assert screened.data_to_send(0.0) == plain.data_to_send(0.0)
    assert screened.line == plain.line
