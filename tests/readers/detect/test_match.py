from __future__ import annotations

import random
import tomllib
from binascii import crc_hqx
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.decoder import encode
from agent.readers.detect.advice import advice, reader_block
from agent.readers.detect.match import Card, ProtocolMatch, Recording, match
from agent.readers.events import RawCredential
from agent.readers.protocols import make_protocol
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


def test_text_that_no_protocol_knows_is_shown_without_its_numbers_and_with_a_template() -> None:
    recording = recorded(b"Card UID: 04 29 2E 5A\r\n", b"Card UID: 11 22 3A 4B\r\n")

    (found,) = advice([recording], match(recording))

    assert "clean text at 9600 baud" in found.text
    assert "AAAA AAA: 00 00 0A 0A" in found.text or "AAAA AAA: 00 00 0" in found.text
    assert 'template = "Card UID: {id}", separators = " "' in found.next
    assert "29" not in found.text + found.next


@pytest.mark.parametrize(
    ("text", "template"),
    [
        (b"FC = 93, CC = 12345\r\n", "FC = {fc}, CC = {cn}"),
        (b"Tag number 0D90304F\r\n", "Tag number {hex}"),
        (b"INSIDE:23,192,251,159,179\r\n", "INSIDE:{decimal}"),
    ],
)
def test_the_template_of_unknown_text_reads_it(text: bytes, template: str) -> None:
    recording = recorded(text, text)

    (found,) = advice([recording], match(recording))

    assert f'template = "{template}"' in found.next
    options = {"template": template, **({"separators": ","} if "," in template or b"," in text[:12] else {})}
    events = make_protocol("line", options).receive_data(text, 0.0)
    assert any(isinstance(event, RawCredential) for event in events)


def test_a_guess_that_ignores_a_checksum_is_no_identification() -> None:
    lines = [b"04A1B2C3D4E53D\r", b"0411223344553D\r"]
    summed = [line[:-3] + b"%02X\r" % (sum(bytes.fromhex(line[:-3].decode())) & 0xFF) for line in lines]

    candidate = likeliest(recorded(*summed))

    assert candidate.protocol != "twn4" or candidate.card is None


@pytest.mark.parametrize(
    "checksum",
    [
        lambda data: bytes([sum(data) & 0xFF]),
        lambda data: crc_hqx(data, 0xFFFF).to_bytes(2, "big"),
        lambda data: crc_hqx(data, 0).to_bytes(2, "little"),
    ],
)
def test_a_damaged_line_among_those_of_another_reader_does_not_hide_their_checksum(
    checksum: Callable[[bytes], bytes],
) -> None:
    cards = [bytes([4, 0xA1, 0xB2, 0xC3, 0xD4, 0xE5, 0xF6, card]) for card in range(3)]
    lines = [(card + checksum(card)).hex().upper().encode() + b"\r" for card in cards]

    candidates = match(recorded(*lines, b"04A1B2C3D4E5F6FF00\r"))

    assert not any(candidate.card for candidate in candidates)


def test_a_maxiprox_is_not_taken_for_a_reader_without_checksum() -> None:
    candidate = likeliest(recorded(b"002006F623AEED\r\n"))

    assert candidate.protocol == "maxiprox"
    assert candidate.card is not None
    assert candidate.card.check is CardCheck.CHECKSUM


@pytest.mark.parametrize(("parity", "odd"), [("even", 0), ("odd", 1)])
def test_seven_bits_with_parity_are_read_and_their_settings_are_in_the_block(parity: str, odd: int) -> None:
    frame = bytes(
        byte | 0x80 if byte.bit_count() % 2 != odd else byte for byte in bits_line(26, h10301(123, 45_015))
    )
    recording = recorded(frame, frame, frame)
    candidate = likeliest(recording)
    assert candidate.card is not None

    block = reader_block(candidate, candidate.card, PORT)

    assert candidate.protocol == "bits"
    assert f'data_bits = 7\nline_parity = "{parity}"' in block
    assert f"seven data bits and {parity} parity" in advice_text(recording)


def test_nul_bytes_in_text_are_a_parity_bit() -> None:
    assert "parity bit" in advice_text(recorded(b"\0".join(b"Kar te 12" for _ in range(4)) + b"\0" * 30))


def test_bytes_in_reverse_lead_to_the_option() -> None:
    candidate = likeliest(recorded(b"B31B18BB\r\n"), 0xBB181BB3)
    assert candidate.card is not None

    assert 'byte_order = "reversed"' in reader_block(candidate, candidate.card, PORT)


def test_a_guess_that_leaves_half_of_the_text_unexplained_is_no_identification() -> None:
    recording = recorded(*[b"1T0123456789\r\n", b"1T0123456790\r\n"] * 2)

    assert likeliest(recording).card is None
    assert "clean text" in advice_text(recording)


def test_the_shape_is_that_of_the_lines_with_a_number() -> None:
    recording = recorded(*[b"No card\r\n"] * 5, b"Bits=26\r\nUID {6B3D12D6}\r\n")

    assert "AAA {0A0A00A0}" in advice_text(recording)
