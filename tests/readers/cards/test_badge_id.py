from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.badge_id import badge_id, badge_id_problem
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


@pytest.mark.parametrize(
    "template",
    [
        *("{card_number:c}", "{card_number:g}", "{card_number:.2e}", "{card_number:%}", "{card_number:n}"),
        *(
            "{card_number:0<10}",
            "{card_number:1>10}",
            "{card_number:,}",
            "{card_number:+}",
            "{card_number!r}",
        ),
        *(
            "{raw:.2}",
            "X{raw:.0}",
            "{raw:0<9}",
            "{raw:09}",
            "{card_number!s:09}",
            "{raw:d}",
            "{decimal:999}",
            "{raw:{bits}}",
            "{raw:100}",
        ),
    ],
)
def test_a_template_that_fails_for_some_card_or_makes_one_badge_of_two_is_refused(template: str) -> None:
    assert badge_id_problem(template)


@given(
    st.sampled_from(["{card_number", "{decimal", "{raw"]),
    st.one_of(st.text(":<>=^+-#0123456789.,_cdeEfFgGnosxXb%s{}!", max_size=6), st.just("")),
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
)
def test_a_template_that_is_accepted_makes_two_badges_of_two_cards(
    field: str, spec: str, values: tuple[int, int]
) -> None:
    template = f"{field}{spec}}}"
    if badge_id_problem(template):
        return

    badges = {
        badge_id(template, CardRead(64, raw_hex(64, value), CardCheck.NONE, "X", 1, value))
        for value in values
    }

    assert len(badges) == len(set(values))
    assert all(1 <= len(badge) <= LONGEST_NAME and badge.isprintable() for badge in badges)
