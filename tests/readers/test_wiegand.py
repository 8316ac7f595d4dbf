from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.wiegand import (
    CARD_BITS,
    DEFAULT_FORMATS,
    FORMATS,
    KEY_BITS,
    Format,
    Parity,
    decode,
    encode,
)
from agent.swipe import CardRead, Check, Key, Noise, Reason, Word

VECTORS = list(
    csv.DictReader((Path(__file__).parents[1] / "data" / "wiegand-vectors.csv").read_text().splitlines())
)

formats = st.sampled_from(list(FORMATS.values()))


@st.composite
def credentials(draw: st.DrawFn) -> tuple[Format, int | None, int]:
    known = draw(formats)
    card_number = draw(st.integers(0, (1 << len(known.card_number)) - 1))
    if not known.facility_code:
        return known, None, card_number
    return known, draw(st.integers(0, (1 << len(known.facility_code)) - 1)), card_number


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: f"{row['format']}-{row['raw']}")
def test_published_words_decode_as_published(row: dict[str, str]) -> None:
    word = Word(int(row["bits"]), int(row["raw"], 16))

    outcome = decode(word, [row["format"]])

    if row["verdict"] != "card":
        assert outcome == Noise(Reason(row["verdict"]))
        return
    facility_code = int(row["facility_code"]) if row["facility_code"] else None
    assert isinstance(outcome, CardRead)
    assert (outcome.format, outcome.check) == (row["format"], Check.PARITY)
    assert (outcome.facility_code, outcome.card_number) == (facility_code, int(row["card_number"]))
    assert outcome.raw == row["raw"]
    assert encode(row["format"], facility_code, int(row["card_number"])) == word.value


@given(credentials())
def test_what_was_encoded_is_decoded(credential: tuple[Format, int | None, int]) -> None:
    known, facility_code, card_number = credential

    outcome = decode(Word(known.bits, encode(known.name, facility_code, card_number)), [known.name])

    assert isinstance(outcome, CardRead)
    assert (outcome.facility_code, outcome.card_number, outcome.issue) == (facility_code, card_number, None)
    assert outcome.matches == (known.name,)


@given(credentials(), st.data())
def test_one_flipped_bit_is_never_a_card(
    credential: tuple[Format, int | None, int], data: st.DataObject
) -> None:
    known, facility_code, card_number = credential
    flipped = 1 << data.draw(st.integers(0, known.bits - 1))

    outcome = decode(Word(known.bits, encode(known.name, facility_code, card_number) ^ flipped), [known.name])

    assert isinstance(outcome, Noise)


@given(
    st.integers(0, 255),
    st.integers(0, 65535),
    st.lists(st.sampled_from(range(1, 13)), min_size=2, max_size=2, unique=True),
)
def test_two_flipped_bits_in_one_parity_set_pass_for_parity_is_no_proof(
    facility_code: int, card_number: int, places: list[int]
) -> None:
    value = encode("H10301", facility_code, card_number)

    flipped = value ^ sum(1 << (25 - place) for place in places)

    assert FORMATS["H10301"].holds(flipped)


@given(formats)
def test_a_format_accounts_for_every_bit_once(known: Format) -> None:
    used = [*known.facility_code, *known.card_number, *known.issue, *(p.position for p in known.parities)]

    assert sorted(used) == list(range(known.bits))


def test_the_default_is_one_format_for_each_length() -> None:
    lengths = [FORMATS[name].bits for name in DEFAULT_FORMATS]

    assert lengths == [26, 34, 35, 37, 48]


def test_fields_may_lie_scrambled_in_the_word() -> None:
    scrambled = Format(
        "T10", "", 10, card_number=(5, 1, 3), issue=(2, 4), parities=(Parity(0, "odd", (1, 3)),)
    )

    # bit:          0123456789
    value = int("0110010000", 2)

    assert scrambled.field(scrambled.card_number, value) == 0b110
    assert scrambled.field(scrambled.issue, value) == 0b10
    assert scrambled.holds(value)


@pytest.mark.parametrize("bits", sorted(KEY_BITS))
@given(st.data())
def test_words_of_key_length_are_keys_whatever_they_say(bits: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(0, (1 << bits) - 1))

    assert decode(Word(bits, value), DEFAULT_FORMATS) == Key()


@given(st.integers(1, 64).filter(lambda bits: bits not in KEY_BITS), st.booleans(), st.sampled_from(Check))
def test_a_line_held_low_or_high_is_no_card(bits: int, high: bool, check: Check) -> None:  # noqa: FBT001 - drawn
    word = Word(bits, (1 << bits) - 1 if high else 0, check)

    assert decode(word, DEFAULT_FORMATS) == Noise(Reason.NULL)


@given(st.integers(2, 80).filter(lambda bits: bits not in KEY_BITS | CARD_BITS))
def test_a_length_that_no_card_has_is_noise(bits: int) -> None:
    assert decode(Word(bits, 1), DEFAULT_FORMATS) == Noise(Reason.LENGTH)


@pytest.mark.parametrize("bits", sorted(CARD_BITS - {FORMATS[name].bits for name in DEFAULT_FORMATS}))
def test_a_card_length_without_enabled_format_is_a_raw_card(bits: int) -> None:
    outcome = decode(Word(bits, 0xA), DEFAULT_FORMATS)

    assert outcome == CardRead(bits, f"{0xA:0{(bits + 3) // 4}X}", Check.NONE)


def test_two_formats_that_validate_leave_the_card_raw() -> None:
    word = Word(37, 0x1F6F6A979E)

    outcome = decode(word, ["H10302", "H10304"])

    assert outcome == CardRead(37, "1F6F6A979E", Check.PARITY, matches=("H10302", "H10304"))


def test_a_format_named_twice_is_still_one_format() -> None:
    outcome = decode(Word(26, 0x2F657AE), ["H10301", "H10301"])

    assert outcome == CardRead(26, "2F657AE", Check.PARITY, "H10301", 123, 11223, matches=("H10301",))


def test_failed_parity_is_passed_on_as_failed_only_when_asked_for() -> None:
    broken = Word(26, 0x2F657AF)

    assert decode(broken, DEFAULT_FORMATS) == Noise(Reason.PARITY)
    assert decode(broken, DEFAULT_FORMATS, parity="flag") == CardRead(26, "2F657AF", Check.FAILED)


@pytest.mark.parametrize("parity", ["reject", "flag"])
def test_a_tag_id_from_a_checked_frame_is_not_judged_by_wiegand_parity(parity: str) -> None:
    tag_id = Word(26, 0x2F657AF, Check.CHECKSUM)

    outcome = decode(tag_id, DEFAULT_FORMATS, parity="flag" if parity == "flag" else "reject")

    assert outcome == CardRead(26, "2F657AF", Check.CHECKSUM)


def test_a_tag_id_of_any_length_is_a_card_when_its_frame_was_checked() -> None:
    assert decode(Word(72, 5, Check.CHECKSUM), []) == CardRead(72, "000000000000000005", Check.CHECKSUM)


def test_a_checked_frame_whose_word_fits_a_format_keeps_its_stronger_check() -> None:
    outcome = decode(Word(26, 0x2F657AE, Check.CHECKSUM), DEFAULT_FORMATS)

    assert outcome == CardRead(26, "2F657AE", Check.CHECKSUM, "H10301", 123, 11223, matches=("H10301",))


@pytest.mark.parametrize(("bits", "name"), [(24, "H10301"), (32, "H10306"), (35, "H10304")])
def test_a_converter_that_strips_parity_leaves_the_format_of_the_data_bits(bits: int, name: str) -> None:
    stripped = encode(name, 61, 4822) >> 1 & (1 << bits) - 1

    outcome = decode(Word(bits, stripped, Check.UPSTREAM), DEFAULT_FORMATS)

    assert isinstance(outcome, CardRead)
    assert (outcome.bits, outcome.check, outcome.format) == (bits, Check.UPSTREAM, name)
    assert (outcome.facility_code, outcome.card_number) == (61, 4822)


def test_stripped_words_that_fit_two_formats_or_none_stay_raw() -> None:
    word = Word(35, 0x123, Check.UPSTREAM)

    assert decode(word, ["H10302", "H10304"]) == CardRead(
        35, "000000123", Check.UPSTREAM, matches=("H10302", "H10304")
    )
    assert decode(word, []) == CardRead(35, "000000123", Check.UPSTREAM)


def test_a_stripped_word_of_no_known_length_is_noise() -> None:
    assert decode(Word(17, 1, Check.UPSTREAM), DEFAULT_FORMATS) == Noise(Reason.LENGTH)


def test_the_signal_strength_goes_along_with_the_card() -> None:
    outcome = decode(replace(Word(26, 0x2F657AE), signal_strength=-61.5), DEFAULT_FORMATS)

    assert isinstance(outcome, CardRead)
    assert outcome.signal_strength == -61.5


@pytest.mark.parametrize(
    ("name", "facility_code", "card_number", "issue"),
    [
        ("H10301", 256, 1, None),
        ("H10301", 1, 65536, None),
        ("H10301", -1, 1, None),
        ("H10301", 1, -1, None),
        ("H10301", None, 1, None),
        ("H10302", 1, 1, None),
        ("H10301", 1, 1, 0),
    ],
)
def test_a_number_that_does_not_fit_the_format_is_refused(
    name: str, facility_code: int | None, card_number: int, issue: int | None
) -> None:
    with pytest.raises(ValueError, match=f"{name} has .* does not fit"):
        encode(name, facility_code, card_number, issue)


def test_a_refused_card_number_is_not_in_the_message() -> None:
    with pytest.raises(ValueError, match="card number") as refused:
        encode("H10301", 123, 876543)

    assert "876543" not in str(refused.value)


def test_an_unknown_format_is_not_passed_over() -> None:
    with pytest.raises(KeyError, match="H1031"):
        decode(Word(26, 0x2F657AE), ["H1031"])
