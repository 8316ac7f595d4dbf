from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.badge_id import badge_id
from agent.readers.events import raw_hex
from agent.sql.columns import COLUMNS
from agent.swipe import LONGEST_NAME, CardCheck, CardRead

DECODED = CardRead(26, "2F657AE", CardCheck.PARITY, "H10301", 123, 45_015)
UNDECODED = CardRead(40, "010063E9AE", CardCheck.CHECKSUM)


@pytest.mark.parametrize(
    ("template", "badge"),
    [
        ("{facility_code}-{card_number}", "123-45015"),
        ("{card_number:010d}", "0000045015"),
        ("{facility_code:03d},{card_number:05d}", "123,45015"),
        ("{bits}:{raw}", "26:2F657AE"),
        ("{decimal}", str(0x2F657AE)),
        ("HQ {raw}", "HQ 2F657AE"),
    ],
)
def test_the_template_is_filled_with_the_cards_fields(template: str, badge: str) -> None:
    assert badge_id(template, DECODED) == badge


@pytest.mark.parametrize("template", ["{facility_code}-{card_number}", "{raw}/{issue}"])
def test_a_field_that_the_card_does_not_have_makes_way_for_the_bits(template: str) -> None:
    assert badge_id(template, UNDECODED) == "40:010063E9AE"


@pytest.mark.parametrize(
    "template", ["", "{raw}" * 20, "{raw:05d}", "{nothing}", "{raw.missing}", "{raw", "{0}"]
)
def test_a_template_that_makes_no_badge_of_a_fitting_length_makes_way_too(template: str) -> None:
    assert badge_id(template, UNDECODED) == "40:010063E9AE"


@given(
    st.integers(1, 128).flatmap(lambda bits: st.tuples(st.just(bits), st.integers(0, 2**bits - 1))),
    st.sampled_from(["{facility_code}-{card_number}", "{decimal}", "{raw}", "{bits}-{decimal:050d}"]),
)
def test_every_badge_fits_its_column(card: tuple[int, int], template: str) -> None:
    bits, value = card

    badge = badge_id(template, CardRead(bits, raw_hex(bits, value), CardCheck.NONE))

    assert 1 <= len(badge) <= LONGEST_NAME


@pytest.mark.parametrize("name", ["badge_id", "user_id", "zone_id", "reader_id"])
def test_the_columns_hold_the_longest_name(name: str) -> None:
    (column,) = (column for column in COLUMNS if column.name == name)

    assert column.type == f"VARCHAR({LONGEST_NAME}) NOT NULL"
