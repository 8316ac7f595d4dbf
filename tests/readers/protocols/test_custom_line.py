"""Templates, and the numbers of a line."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.decoder import encode
from agent.readers.events import CredentialKind, Noise, NoiseReason, RawCredential, ReaderEvent
from agent.readers.framing.hid_word import wiegand_bits
from agent.readers.protocol import OptionError
from agent.readers.protocols import make_protocol
from agent.swipe import CardCheck


def read(text: bytes, **options: object) -> list[ReaderEvent]:
    wire = make_protocol("line", options)
    return [*wire.receive_data(text + b"\r\n", 0.0), *wire.handle_timeout(math.inf)]


def card(text: bytes, **options: object) -> RawCredential:
    (event,) = read(text, **options)
    assert isinstance(event, RawCredential)
    return event


@given(facility=st.integers(0, 255), number=st.integers(0, 65_535), count=st.sampled_from([b"", b"26 "]))
def test_facility_code_and_card_number_are_the_data_bits(facility: int, number: int, count: bytes) -> None:
    template = ("{bits} " if count else "") + "FC = {fc}, CC = {cn}"

    found = card(b"%sFC = %d, CC = %05d" % (count, facility, number), template=template)

    assert (found.bits, found.value, found.form) == (24, facility << 16 | number, CredentialKind.DATA)


@given(st.integers(1, (1 << 24) - 1))
def test_one_card_has_one_identity_whatever_the_bridge_prints(value: int) -> None:
    texts = [
        (b"%d 26" % value, "{decimal} {bits}"),
        (b"%06X" % value, "{hex:6}"),
        (b"HEX = %X, DECIMAL = %d, W26" % (value, value), "HEX = {hex}, DECIMAL = {decimal}, W{bits}"),
        (b"%d-%d" % (value >> 16, value & 0xFFFF), "{fc}-{cn}"),
    ]

    assert {(found.bits, found.value) for found in (card(text, template=each) for text, each in texts)} == {
        (24, value)
    }


@given(facility=st.integers(0, 255), number=st.integers(0, 65_535))
def test_hid_words_have_the_bits_of_their_card(facility: int, number: int) -> None:
    bits = encode("H10301", facility, number)

    assert card(b"20%08X" % (1 << 26 | bits), template="{hid}") == RawCredential(26, bits)


@pytest.mark.parametrize("word", [1 << 38, 1 << 37, 1 << 37 | 1 << 5, 1 << 43])
def test_other_numbers_are_no_hid_words(word: int) -> None:
    assert wiegand_bits(word) is None


@pytest.mark.parametrize(
    ("text", "options", "bits", "value"),
    [
        (b"04 29 2E 5A", {"template": "{id}", "separators": " "}, 32, 0x04292E5A),
        (b"A6-DF-51-DE", {"template": "{hex}", "separators": "-"}, 32, 0xA6DF51DE),
        (b"23,192,251", {"template": "{decimal}", "separators": ","}, 24, 0x17C0FB),
        (b"4 29 2E 5A", {"template": "{id}", "separators": " ", "unpadded": "yes"}, 32, 0x04292E5A),
        (b"E0045BA51A010000", {"template": "{id}"}, 64, 0xE0045BA51A010000),
        (b"04A1B2C3D4E5F6071829", {"template": "{hex}"}, 80, 0x04A1B2C3D4E5F6071829),
        (b"985112345678903", {"template": "{decimal:15}"}, 64, 985112345678903),
        (
            b"982123456789012",
            {"template": "{fc:3}{cn:12}", "bits": 48, "facility_bits": 10},
            48,
            982 << 38 | 123456789012,
        ),
    ],
)
def test_identifiers_of_any_length_are_cards_of_no_format(
    text: bytes, options: dict[str, object], bits: int, value: int
) -> None:
    found = card(text, **options)

    assert (found.bits, found.value, found.form) == (bits, value, CredentialKind.IDENTIFIER)


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        (b"D9030", {"template": "{hex}", "bits": 24}, NoiseReason.LENGTH),
        (b"2F657A", {"template": "{raw}", "bits": 26}, NoiseReason.LENGTH),
        (b"2F657AE", {"template": "{raw}"}, NoiseReason.LENGTH),
        (b"1011", {"template": "{binary}", "bits": 26}, NoiseReason.LENGTH),
        (b"4 29 2E 5A", {"template": "{id}", "separators": " "}, NoiseReason.LENGTH),
        (b"23,192,256", {"template": "{decimal}", "separators": ","}, NoiseReason.LENGTH),
        (b"300-1", {"template": "{fc}-{cn}"}, NoiseReason.LENGTH),
        (b"0 12", {"template": "{bits} {hex}"}, NoiseReason.LENGTH),
        (b"10 9", {"template": "{hex} {decimal}"}, NoiseReason.CHECKSUM),
        (b"17C0FB9FB4", {"template": "{id}", "checksum": "xor"}, NoiseReason.CHECKSUM),
        (b"12345678", {"template": "{decimal:10}"}, NoiseReason.SYNTAX),
        (b"1" * 200, {"template": "{decimal}"}, NoiseReason.OVERSIZED),
        (b"1" * 70, {"template": "{decimal}"}, NoiseReason.LENGTH),
    ],
)
def test_a_number_that_is_not_whole_is_noise(
    text: bytes, options: dict[str, object], reason: NoiseReason
) -> None:
    (event,) = read(text, **options)

    assert isinstance(event, Noise)
    assert event.reason is reason


def test_digits_without_leading_zeros_are_a_card_with_no_check() -> None:
    found = card(b"2657AE", template="{raw}", bits=26, unpadded="yes")

    assert (found.bits, found.unpadded) == (26, True)


def test_a_checksum_of_the_bytes_is_one() -> None:
    found = card(b"17C0FB9FB3", template="{id}", checksum="xor")

    assert (found.bits, found.value, found.check) == (32, 0x17C0FB9F, CardCheck.CHECKSUM)


@pytest.mark.parametrize(
    ("end", "line"),
    [("etx", b"3D12D6\x03"), ("#", b"3D12D6#"), ("silence", b"3D12D6"), ("line", b"3D12D6\r")],
)
def test_the_end_of_a_line_is_configurable(end: str, line: bytes) -> None:
    wire = make_protocol("line", {"template": "{hex}", "end": end})

    events = [*wire.receive_data(line, 0.0), *wire.handle_timeout(math.inf)]

    assert [type(event) for event in events] == [RawCredential]


def test_lines_of_other_readers_and_ignored_lines_are_nothing() -> None:
    options = {"template": "{reader}:{hex}", "select": "INSIDE", "ignore": "No card|Bits={skip}"}

    assert read(b"OUTSIDE:3D12D6\r\nNo card\r\nBits=26", **options) == []
    assert len(read(b"INSIDE:3D12D6", **options)) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"template": "no field"}, "must have one of"),
        ({"template": "{fc}"}, "must have {fc} and {cn} together"),
        ({"template": "{raw} {hex}"}, "must have one of"),
        ({"template": "{hexx}"}, "has a field {hexx}"),
        ({"template": "{hex} {hex}"}, "twice"),
        ({"template": "{hex}{decimal}"}, "has no text between"),
        ({"template": "{skip}a{skip}b{skip}c{skip}d{hex}"}, "more than 3 times"),
        ({"template": "{hex}", "pattern": "(?P<hex>[0-9]+)"}, "not possible with a template"),
        ({"template": "{hex}", "select": "A"}, "needs the field {reader}"),
        ({"template": "{hex}", "ignore": "{foo}"}, "has a field {foo}"),
    ],
)
def test_a_wrong_template_is_refused_with_what_is_wrong(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said.replace("{", r"\{").replace("}", r"\}")):
        make_protocol("line", options)


def test_one_group_of_several_is_no_card() -> None:
    for text in (b"INSIDE:23,192,251,159,179", b"INSIDE:23,192,251,160,179"):
        (event,) = read(text, pattern=r".*,(?P<decimal>\d+)")
        assert isinstance(event, Noise)
