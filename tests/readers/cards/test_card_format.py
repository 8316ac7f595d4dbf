from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.card_format import CardFormat, Parity
from agent.readers.cards.formats import FORMATS

formats = st.sampled_from(list(FORMATS.values()))

# Bits that belong to no field and no parity, where a format has such.
UNASSIGNED = {
    "2804W": [1, 3],
    "ADT31": [0, 28, 29, 30],
    "HCP32": [0, *range(25, 32)],
    "HPP32": [0],
    "Kantech": [*range(7), 31],
    "WIE32": [0, 1, 2, 3],
    "Optus34": [0, *range(17, 22), 33],
    "SMP34": [0, 33],
    "S12906b": [35],
    "H10320": [36],
    "P10004": [0, *range(32, 37)],
    "HGen37": [1],
    "MDI37": [1, 2],
    "Casi40": [0, 39],
    "BC40": [38],
}


@pytest.mark.parametrize("known", FORMATS.values(), ids=lambda known: known.name)
def test_a_format_accounts_for_every_bit_once(known: CardFormat) -> None:
    fields = [place for _, places in known.fields for place in places]
    settings = {place for place, _ in (*known.fixed, *known.preset)} - set(fields)
    parities = [parity.position for parity in known.parities]

    assert sorted([*fields, *parities, *settings, *UNASSIGNED.get(known.name, [])]) == list(range(known.bits))


@given(formats)
def test_a_parity_is_computed_after_the_parities_it_covers(known: CardFormat) -> None:
    positions = [parity.position for parity in known.parities]

    for index, parity in enumerate(known.parities):
        assert not set(positions[index:]) & set(parity.covers)


def test_fields_may_lie_scrambled_in_the_word() -> None:
    scrambled = CardFormat(
        "T10", "", 10, card_number=(5, 1, 3), issue=(2, 4), parities=(Parity(0, "odd", (1, 3)),)
    )

    # bit:          0123456789
    value = int("0110010000", 2)

    assert scrambled.read(value) == (None, 0b110, 0b10, None)
    assert scrambled.holds(value)
    assert not scrambled.holds(value ^ 1 << 9)


def test_places_in_a_row_but_backwards_are_read_backwards() -> None:
    backwards = CardFormat("T4", "", 4, card_number=(3, 2, 1, 0))

    assert backwards.read(0b1000) == (None, 0b0001, None, None)


def test_preset_bits_are_written_and_not_asked_for() -> None:
    preset = CardFormat("T4", "", 4, card_number=(2, 3), preset=((0, 1), (1, 0)))

    assert preset.write((None, 0b11, None, None)) == 0b1011
    assert preset.holds(0b0011)


def test_a_word_is_written_from_every_number_and_no_more() -> None:
    with pytest.raises(ValueError, match="zip"):
        FORMATS["H10301"].write((1, 2))


def test_fixed_bits_are_written_and_asked_for() -> None:
    fixed = CardFormat("T4", "", 4, card_number=(2, 3), fixed=((0, 1), (1, 0)))

    assert fixed.write((None, 0b11, None, None)) == 0b1011
    assert fixed.holds(0b1011)
    assert not fixed.holds(0b0011)
    assert not fixed.holds(0b1111)


@pytest.mark.parametrize(
    ("name", "data_bits"),
    [("H10301", 24), ("H10304", 35), ("ind27", 27), ("C1k35s", None), ("BC40", None), ("P10001", None)],
)
def test_only_parity_at_both_ends_can_be_stripped(name: str, data_bits: int | None) -> None:
    assert FORMATS[name].data_bits == data_bits
