from __future__ import annotations

import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.card_format import CardFormat
from agent.readers.cards.decoder import KEY_BITS, decode, encode
from agent.readers.cards.formats import CARD_BITS, FORMATS
from agent.readers.events import CredentialKind, Noise, NoiseReason, RawCredential
from agent.settings import DEFAULT_FORMATS
from agent.swipe import CardCheck, CardRead
from tests.support.paths import DATA

VECTORS = list(csv.DictReader((DATA / "wiegand-vectors.csv").read_text().splitlines()))
FIELDS = ("facility_code", "card_number", "issue", "oem")

formats = st.sampled_from(list(FORMATS.values()))


@st.composite
def credentials(draw: st.DrawFn) -> tuple[CardFormat, list[int | None]]:
    known = draw(formats)
    numbers = [draw(st.integers(0, (1 << len(p)) - 1)) if p else None for _, p in known.fields]
    if known.name == "S12906b":
        numbers[0] = 217
    if known.decimal_digits:
        numbers[1] = draw(st.integers(80_000_000, 99_999_999))
    return known, numbers


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: f"{row['format']}-{row['raw']}")
def test_published_words_decode_as_published(row: dict[str, str]) -> None:
    word = RawCredential(int(row["bits"]), int(row["raw"], 16))

    outcome = decode(word, [row["format"]])

    if row["verdict"] != "card":
        assert outcome == Noise(NoiseReason(row["verdict"]))
        return
    numbers = [int(row[field]) if row[field] else None for field in FIELDS]
    assert isinstance(outcome, CardRead)
    assert outcome.format == row["format"]
    assert outcome.check is (CardCheck.PARITY if FORMATS[row["format"]].parities else CardCheck.NONE)
    assert [getattr(outcome, field) for field in FIELDS] == numbers
    assert outcome.raw == row["raw"]
    assert encode(row["format"], *numbers) == word.value


def test_there_is_a_published_word_for_every_format_that_is_not_contested() -> None:
    assert {row["format"] for row in VECTORS} == {
        known.name for known in FORMATS.values() if not known.contested
    }


@given(credentials())
def test_what_was_encoded_is_decoded(credential: tuple[CardFormat, list[int | None]]) -> None:
    known, numbers = credential
    value = encode(known.name, *numbers)

    outcome = decode(RawCredential(known.bits, value), [known.name])

    if value in (0, (1 << known.bits) - 1):
        assert outcome == Noise(NoiseReason.NULL)
        return
    assert isinstance(outcome, CardRead)
    assert [getattr(outcome, field) for field in FIELDS] == numbers
    assert outcome.matches == (known.name,)


@given(credentials(), st.data())
def test_one_flipped_bit_under_a_parity_is_never_a_card(
    credential: tuple[CardFormat, list[int | None]], data: st.DataObject
) -> None:
    known, numbers = credential
    covered = {place for parity in known.parities for place in (parity.position, *parity.covers)}
    if not covered:
        return
    flipped = 1 << known.bits - 1 - data.draw(st.sampled_from(sorted(covered)))

    outcome = decode(RawCredential(known.bits, encode(known.name, *numbers) ^ flipped), [known.name])

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


def test_the_default_is_one_format_for_each_length() -> None:
    lengths = [FORMATS[name].bits for name in DEFAULT_FORMATS]

    assert lengths == [26, 34, 35, 37, 48]


def test_no_contested_format_is_enabled_by_default() -> None:
    assert not [name for name in DEFAULT_FORMATS if FORMATS[name].contested]
    assert {"HPP32", "H10320", "HGen37", "MDI37"} == {n for n, known in FORMATS.items() if known.contested}


@given(
    st.integers(1, 64).filter(lambda bits: bits not in KEY_BITS), st.booleans(), st.sampled_from(CardCheck)
)
def test_a_line_held_low_or_high_is_no_card(bits: int, high: bool, check: CardCheck) -> None:  # noqa: FBT001 - drawn
    word = RawCredential(bits, (1 << bits) - 1 if high else 0, check)

    assert decode(word, DEFAULT_FORMATS) == Noise(NoiseReason.NULL)


@given(st.integers(2, 80).filter(lambda bits: bits not in KEY_BITS | CARD_BITS))
def test_a_length_that_no_card_has_is_noise(bits: int) -> None:
    assert decode(RawCredential(bits, 1), DEFAULT_FORMATS) == Noise(NoiseReason.LENGTH)


@pytest.mark.parametrize("bits", sorted(CARD_BITS - {FORMATS[name].bits for name in DEFAULT_FORMATS}))
def test_a_card_length_without_enabled_format_is_a_raw_card(bits: int) -> None:
    outcome = decode(RawCredential(bits, 0xA), DEFAULT_FORMATS)

    assert outcome == CardRead(bits, f"{0xA:0{(bits + 3) // 4}X}", CardCheck.NONE)


def test_two_formats_that_validate_leave_the_card_raw() -> None:
    word = RawCredential(37, 0x1F6F6A979E)

    outcome = decode(word, ["H10302", "H10304"])

    assert outcome == CardRead(37, "1F6F6A979E", CardCheck.PARITY, matches=("H10302", "H10304"))


def test_a_format_named_twice_is_still_one_format() -> None:
    outcome = decode(RawCredential(26, 0x2F657AE), ["H10301", "H10301"])

    assert outcome == CardRead(26, "2F657AE", CardCheck.PARITY, "H10301", 123, 11223, matches=("H10301",))


def test_failed_parity_is_passed_on_as_failed_only_when_asked_for() -> None:
    broken = RawCredential(26, 0x2F657AF)

    assert decode(broken, DEFAULT_FORMATS) == Noise(NoiseReason.PARITY)
    assert decode(broken, DEFAULT_FORMATS, parity="flag") == CardRead(26, "2F657AF", CardCheck.FAILED)


@pytest.mark.parametrize("flagged", [True, False])
def test_a_tag_id_is_not_judged_by_wiegand_parity(flagged: bool) -> None:  # noqa: FBT001 - a case
    tag_id = RawCredential(26, 0x2F657AF, CardCheck.CHECKSUM, CredentialKind.ID)

    outcome = decode(tag_id, DEFAULT_FORMATS, parity="flag" if flagged else "reject")

    assert outcome == CardRead(26, "2F657AF", CardCheck.CHECKSUM)


def test_a_tag_id_of_any_length_is_a_card() -> None:
    assert decode(RawCredential(72, 5, CardCheck.CHECKSUM, CredentialKind.ID), []) == CardRead(
        72, "000000000000000005", CardCheck.CHECKSUM
    )


def test_a_checked_frame_whose_word_fits_a_format_keeps_its_stronger_check() -> None:
    outcome = decode(RawCredential(26, 0x2F657AE, CardCheck.CHECKSUM), DEFAULT_FORMATS)

    assert outcome == CardRead(26, "2F657AE", CardCheck.CHECKSUM, "H10301", 123, 11223, matches=("H10301",))


def test_a_tag_is_decoded_by_the_format_em4100_only_where_it_is_enabled() -> None:
    tag_id = RawCredential(40, 0x4500C5D1E9, CardCheck.CHECKSUM, CredentialKind.ID)

    plain, decoded = decode(tag_id, DEFAULT_FORMATS), decode(tag_id, ["EM4100"])

    assert plain == CardRead(40, "4500C5D1E9", CardCheck.CHECKSUM)
    assert decoded == plain._replace(
        format="EM4100", facility_code=0x45, card_number=12_964_329, matches=("EM4100",)
    )


def test_a_word_is_vouched_for_by_parity_only_if_every_format_it_fits_has_one() -> None:
    word = RawCredential(37, 0x1F6F6A979E)

    outcome = decode(word, ["H10304", "P10004"])

    assert outcome == CardRead(37, "1F6F6A979E", CardCheck.NONE, matches=("H10304", "P10004"))


@pytest.mark.parametrize(("name", "facility_code", "card_number"), [("H10301", 123, 11223), ("H10306", 1, 2)])
def test_a_word_whose_complement_validates_says_that_the_data_wires_are_swapped(
    name: str, facility_code: int, card_number: int
) -> None:
    bits = FORMATS[name].bits
    swapped = RawCredential(bits, encode(name, facility_code, card_number) ^ (1 << bits) - 1)

    assert decode(swapped, [name]) == Noise(NoiseReason.SWAPPED)
    assert decode(swapped, [name], parity="flag") == Noise(NoiseReason.SWAPPED)
    assert isinstance(decode(swapped, []), CardRead), "without a format nothing says so"


def test_one_broken_parity_alone_is_not_taken_for_swapped_wires() -> None:
    assert decode(RawCredential(26, 0x2F657AE ^ 1), DEFAULT_FORMATS) == Noise(NoiseReason.PARITY)


@pytest.mark.parametrize(("bits", "name"), [(24, "H10301"), (32, "H10306"), (35, "H10304"), (36, "BQT38")])
def test_a_converter_that_strips_parity_leaves_the_format_of_the_data_bits(bits: int, name: str) -> None:
    issue = 3 if FORMATS[name].issue else None
    stripped = encode(name, 61, 4822, issue) >> 1 & (1 << bits) - 1

    outcome = decode(
        RawCredential(bits, stripped, CardCheck.UPSTREAM, CredentialKind.DATA), [name, "C1k48s", "2804W"]
    )

    assert isinstance(outcome, CardRead)
    assert (outcome.bits, outcome.check, outcome.format) == (bits, CardCheck.UPSTREAM, name)
    assert (outcome.facility_code, outcome.card_number, outcome.issue) == (61, 4822, issue)


def test_a_format_without_parity_has_nothing_to_be_stripped() -> None:
    outcome = decode(
        RawCredential(27, encode("ind27", 61, 4822), CardCheck.UPSTREAM, CredentialKind.DATA), ["ind27"]
    )

    assert isinstance(outcome, CardRead)
    assert (outcome.facility_code, outcome.card_number) == (61, 4822)


def test_a_stripped_word_still_has_to_have_the_fixed_bits_of_its_format() -> None:
    good = encode("Kastle", 61, 4822, 5) >> 1 & (1 << 30) - 1

    fitting = decode(RawCredential(30, good, CardCheck.UPSTREAM, CredentialKind.DATA), ["Kastle"])
    unfitting = decode(RawCredential(30, good ^ 1 << 29, CardCheck.UPSTREAM, CredentialKind.DATA), ["Kastle"])

    assert isinstance(fitting, CardRead)
    assert fitting.format == "Kastle"
    assert unfitting == CardRead(30, f"{good ^ 1 << 29:08X}", CardCheck.UPSTREAM)


def test_stripped_words_that_fit_two_formats_or_none_stay_raw() -> None:
    word = RawCredential(35, 0x123, CardCheck.UPSTREAM, CredentialKind.DATA)

    assert decode(word, ["H10302", "H10304"]) == CardRead(
        35, "000000123", CardCheck.UPSTREAM, matches=("H10302", "H10304")
    )
    assert decode(word, []) == CardRead(35, "000000123", CardCheck.UPSTREAM)


@pytest.mark.parametrize("bits", [17, 53, 58])
def test_a_stripped_word_of_no_known_length_is_noise(bits: int) -> None:
    assert decode(RawCredential(bits, 1, CardCheck.UPSTREAM, CredentialKind.DATA), DEFAULT_FORMATS) == Noise(
        NoiseReason.LENGTH
    )


@pytest.mark.parametrize(("bits", "formats"), [(54, []), (56, []), (56, ["IR56"])])
def test_a_stripped_word_of_a_known_length_is_a_card(bits: int, formats: list[str]) -> None:
    outcome = decode(RawCredential(bits, 1, CardCheck.UPSTREAM, CredentialKind.DATA), formats)

    assert isinstance(outcome, CardRead)
    assert outcome.matches == tuple(formats)


@pytest.mark.parametrize("formats", [["H10301"], ["H10301", "ind26"], []])
def test_the_signal_strength_goes_along_with_the_card(formats: list[str]) -> None:
    outcome = decode(RawCredential(26, 0x2F657AE, signal_strength=-61.5), formats)

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
        ("H10301", 1, None, None),
        ("H10320", None, 100_000_000, None),
        ("H10320", None, -1, None),
    ],
)
def test_a_number_that_does_not_fit_the_format_is_refused(
    name: str, facility_code: int | None, card_number: int | None, issue: int | None
) -> None:
    with pytest.raises(ValueError, match=f"{name} has .* does not fit"):
        encode(name, facility_code, card_number, issue)


@pytest.mark.parametrize(
    ("name", "facility_code", "card_number"),
    [("S12906b", 216, 1), ("S12906b", 255, 1), ("H10320", None, 79_999_999)],
)
def test_a_number_that_contradicts_the_fixed_bits_is_refused(
    name: str, facility_code: int | None, card_number: int
) -> None:
    with pytest.raises(ValueError, match=f"{name} has fixed bits"):
        encode(name, facility_code, card_number)


def test_a_digit_above_nine_is_no_decimal_number() -> None:
    good = encode("H10320", None, 98_765_432)

    # Two bits of one parity set: 8 becomes A in one digit, 4 becomes 6 in another.
    outcome = decode(RawCredential(37, good ^ 1 << 37 - 1 - 6 ^ 1 << 37 - 1 - 22), ["H10320"])

    assert outcome == Noise(NoiseReason.PARITY)


def test_a_refused_card_number_is_not_in_the_message() -> None:
    with pytest.raises(ValueError, match="card number") as refused:
        encode("H10301", 123, 876543)

    assert "876543" not in str(refused.value)


def test_an_unknown_format_is_not_passed_over() -> None:
    with pytest.raises(KeyError, match="H1031"):
        decode(RawCredential(26, 0x2F657AE), ["H1031"])
