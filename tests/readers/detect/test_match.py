from __future__ import annotations

import random
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.decoder import encode
from agent.readers.detect.advice import advice, reader_block
from agent.readers.detect.match import Card, ProtocolMatch, Recording, match
from agent.swipe import CardCheck
from tests.support.agent_process import bits_line, h10301, rdm6300_frame

TAG = 0x0100_63E9_AE
PORT = "/dev/serial/by-id/usb-1a86_USB_Serial-if00-port0"


def recorded(*frames: bytes, baudrate: int = 9600) -> Recording:
    return Recording(baudrate, [(1.0, frame) for frame in frames])


def likeliest(recording: Recording, printed_number: int | None = None) -> ProtocolMatch:
    return match(recording, printed_number)[0]


def card_of(recording: Recording, printed_number: int | None = None) -> Card:
    card = likeliest(recording, printed_number).card
    assert card is not None
    return card


def advice_text(recording: Recording) -> str:
    return " ".join(found.text for found in advice([recording], match(recording)))


@pytest.mark.parametrize(
    ("frame", "protocol", "bits"),
    [
        (b"\x023C00CE754CCB\x03", "rdm6300", 40),
        (b"\x023C00CE754CCB\r\n\x03", "id12la", 40),
        (b"3C00CE754CCB", "em18", 40),
        (b"\n0F0184F07A\r", "parallax", 40),
        (b"1A808001C0\r", "elatec-bits", 26),
        (b"26:2F657AE\r\n", "bits", 26),
        (b"0000123478\r\n", "s4a", 32),
        (b"Card readed: 24bits / 3D12D6\r\n", "yaawl", 24),
        (bytes.fromhex("02 0A 02 2E00B6D7B5 F2 03"), "gwiot7941", 40),
    ],
)
def test_the_protocol_that_explains_most_is_the_likeliest(frame: bytes, protocol: str, bits: int) -> None:
    candidate = likeliest(recorded(frame, frame, frame))

    assert candidate.protocol == protocol
    assert candidate.card is not None
    assert (candidate.card.bits, candidate.card.times) == (bits, 3)


def test_every_format_that_validates_is_told_with_its_numbers() -> None:
    card = card_of(recorded(bits_line(37, encode("H10304", 1234, 56_789))))

    fits = {fit.format: (fit.facility_code, fit.card_number) for fit in card.fits}
    assert fits["H10304"] == (1234, 56_789)
    assert "H10302" in fits


@pytest.mark.parametrize(
    ("frame", "printed", "way"),
    [
        (bits_line(26, h10301(123, 45_015)), 45_015, "card number of H10301"),
        (bits_line(26, h10301(123, 45_015)), 12_345_015, "facility code and card number of H10301"),
        (rdm6300_frame(TAG), 9_959_822, "low 24 bits as 3 and 5 digits"),
        (rdm6300_frame(TAG), 6_547_886, "card number of EM4100"),
        (rdm6300_frame(TAG), TAG, "decimal of all bits"),
        (rdm6300_frame(TAG), 0x63E9AE, "low 24 bits"),
        (rdm6300_frame(TAG), 0xE9AE, "low 16 bits"),
        (b"6B3D12D6\r", 0xD6123D6B, "bytes in reverse"),
        (bits_line(26, h10301(123, 45_015)), 123 << 16 | 45_015, "bits between the outer parity bits"),
    ],
)
def test_the_printed_number_is_found_in_the_card(frame: bytes, printed: int, way: str) -> None:
    assert way in card_of(recorded(frame), printed).printed


def test_a_number_that_is_not_in_the_card_is_not_found() -> None:
    assert card_of(recorded(rdm6300_frame(TAG)), 4711).printed == ()


def test_the_printed_number_decides_between_protocols_that_read_the_same_bytes() -> None:
    recording = recorded(b"0012345678\r\n")

    assert likeliest(recording).protocol == "s4a"
    assert likeliest(recording, 0x12345678).protocol in {"twn4", "wg2rs232", "wie232"}


@given(facility=st.integers(1, 255), number=st.integers(1, 65_535))
def test_the_card_number_of_any_card_is_found_where_it_is_printed(facility: int, number: int) -> None:
    card = card_of(recorded(bits_line(26, h10301(facility, number))), number)

    assert "card number of H10301" in card.printed


def test_swapped_data_wires_are_told_after_three_words() -> None:
    frame = bits_line(26, ~h10301(123, 45_015) & (1 << 26) - 1)

    assert "swapped" in advice_text(recorded(frame, frame, frame))
    assert "swapped" not in advice_text(recorded(frame, frame))


def test_words_that_lost_bits_are_told_with_their_lengths() -> None:
    value = h10301(123, 45_015)

    text = advice_text(recorded(bits_line(26, value), bits_line(25, value >> 1), bits_line(24, value >> 2)))

    assert "bits are lost: reads of 24, 25, 26 bits" in text


def test_cards_of_different_lengths_have_lost_no_bits() -> None:
    recording = recorded(bits_line(26, h10301(1, 2)), bits_line(37, encode("H10304", 1, 2)))

    assert advice([recording], match(recording)) == []


def test_many_different_words_are_a_floating_wire_and_no_card() -> None:
    dice = random.Random(5)  # noqa: S311 - a floating wire
    words = [bits_line(bits, dice.getrandbits(bits)) for bits in range(20, 50)]

    recording = recorded(*words)

    assert "floating" in advice_text(recording)
    assert likeliest(recording).card is None


def test_bytes_without_a_frame_are_a_wrong_line_speed() -> None:
    assert "wrong line speed" in advice_text(recorded(b"\x80\x00\xf8" * 20))


def test_silence_is_told_as_such() -> None:
    assert "not one byte" in advice_text(Recording(9600, []))


def test_what_may_be_a_pin_is_counted_and_not_shown() -> None:
    recording = recorded(bits_line(26, h10301(0, 4711)))

    candidate = likeliest(recording)

    assert (candidate.cards, candidate.withheld) == ((), 1)
    assert "4711" not in advice_text(recording)
    assert "PIN" in advice_text(recording)


@pytest.mark.parametrize("digits", ["1234", "471147", "12345678"])
def test_a_line_of_up_to_eight_digits_may_be_a_pin_whatever_protocol_could_read_it(digits: str) -> None:
    recording = recorded(digits.encode() + b"\r\n")

    candidates = match(recording)

    assert candidates
    assert all(candidate.cards == () for candidate in candidates)
    assert "PIN" in advice_text(recording)
    assert any(candidate.card for candidate in match(recording, int(digits)))


def test_a_card_that_looks_like_a_pin_is_shown_to_who_knows_its_number() -> None:
    assert card_of(recorded(bits_line(26, h10301(0, 4711))), 4711).bits == 26


def test_keys_are_counted_and_nothing_else_is_told_of_them() -> None:
    recording = recorded(*[bits_line(4, key) for key in (1, 2, 3, 4)])

    assert likeliest(recording).keys == 4
    assert "4 keys were pressed" in advice_text(recording)


def test_no_number_of_a_card_is_in_any_repr() -> None:
    candidate = match(recorded(bits_line(26, h10301(123, 45_015)), b"keys 4711"))

    assert "45015" not in repr(candidate)
    assert "2F" not in repr(candidate)
    assert "4711" not in repr(recorded(b"keys 4711"))


@given(st.lists(st.tuples(st.floats(0, 2), st.binary(max_size=40)), max_size=8), st.integers(0, 1 << 40))
def test_any_bytes_are_heard_without_complaint(chunks: list[tuple[float, bytes]], printed: int) -> None:
    recording = Recording(9600, chunks)

    candidates = match(recording, printed)

    advice([recording], candidates)
    for candidate in candidates:
        for card in candidate.cards:
            tomllib.loads(reader_block(candidate, card, PORT))


@pytest.mark.parametrize(
    ("frame", "printed", "expected"),
    [
        (bits_line(26, h10301(123, 45_015)), 45_015, {"protocol": "bits"}),
        (rdm6300_frame(TAG), 6_547_886, {"protocol": "rdm6300", "formats": ["EM4100"]}),
        (rdm6300_frame(TAG), TAG, {"protocol": "rdm6300", "badge_id": "{decimal}"}),
        (rdm6300_frame(TAG), None, {"protocol": "rdm6300"}),
    ],
)
def test_the_block_to_paste_has_what_differs_from_the_defaults(
    frame: bytes, printed: int | None, expected: dict[str, object]
) -> None:
    candidate = likeliest(recorded(frame), printed)
    assert candidate.card is not None

    (table,) = tomllib.loads(reader_block(candidate, candidate.card, PORT))["readers"]

    assert table == {"id": "RDR-101", "zone_id": "ZONE-1", "port": PORT, **expected}


def test_a_card_that_the_default_formats_refuse_has_its_own_in_the_block() -> None:
    frame = bits_line(37, encode("H10302", None, 1_234_567_890))
    candidate = likeliest(recorded(frame), 1_234_567_890)
    assert candidate.card is not None

    assert 'formats = ["H10302"]' in reader_block(candidate, candidate.card, PORT)


def test_another_speed_than_the_protocols_own_is_in_the_block() -> None:
    candidate = likeliest(recorded(rdm6300_frame(TAG), baudrate=19_200))
    assert candidate.card is not None

    assert "baudrate = 19200" in reader_block(candidate, candidate.card, PORT)


def test_a_card_vouched_for_by_its_frame_says_so() -> None:
    assert card_of(recorded(rdm6300_frame(TAG))).check is CardCheck.CHECKSUM
