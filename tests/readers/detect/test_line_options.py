"""Text of readers and sketches in the field, and the options of `line` that are suggested for it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.decoder import Decoder
from agent.readers.detect.line_options import suggestion
from agent.readers.detect.line_shape import text_lines
from agent.readers.events import RawCredential
from agent.readers.protocols import make_protocol
from agent.settings import DEFAULT_FORMATS
from agent.swipe import CardRead

# What is printed for one card, the template that is suggested, and the card's bits.
TEXTS = [
    (b"FC = 93, CC = 12345\r\n", "FC = {fc}, CC = {cn}", "24:5D3039"),
    (
        b"26 bit card. FC = 123, CC = 4567, 44bit HEX = 2006F623AE\r\n",
        "{bits} bit card. FC = {fc}, CC = {cn}, 44bit HEX = {skip}",
        "24:7B11D7",
    ),
    (b"35 bit card. FC = 1234, CC = 56789\r\n", "{bits} bit card. FC = {fc}, CC = {cn}", "35:02690DDD5"),
    (b"Bits=26\r\nRAW Binary=10111101100010001110101110\r\n", "RAW Binary={binary}", "26:2F623AE"),
    (b"Tag = D9030\r\n", "Tag = {hex}", "24:0D9030"),
    (b"TAG Number: 010063E9AE\r\n", "TAG Number: {hex}", "40:010063E9AE"),
    (b"2F657AE\r\n", "{raw}", "26:2F657AE"),
    (b"3FFDA960xfffffff:\r\n", "{raw}0xfffffff:", "26:3FFDA96"),
    (
        b"1F70CF\nCard: 24bits / HEX: 1F70CF / DEC: 2060495 / Facility Code: 31 / Card Number: 28879\r\n",
        "Card: {bits}bits / HEX: {hex} / DEC: {decimal} / Facility Code: {fc} / Card Number: {cn}",
        "24:1F70CF",
    ),
    (
        b'16:16:39.503 MQT: door1 = {"Time":"2022-02-14T16:16:39","Wiegand":{"UID":16770365,"Size":26}}\r\n',
        '{skip} MQT: door1 = {"Time":"{skip}","Wiegand":{"UID":{decimal},"Size":{bits}}}',
        "24:FFE53D",
    ),
    (
        b'00:00:12.345 RSL: SENSOR = {"Time":"2024-02-14T16:16:39","RC522":{"UID":"04292E5A"}}\r\n',
        '{skip} RSL: SENSOR = {"Time":"{skip}","RC{skip}":{"UID":"{hex}"}}',
        "32:04292E5A",
    ),
    (
        b"23135831: RFID : New Tag: 13561639, 0xceef27, mask: 0xffffff Bits: 26\r\n",
        "{skip}: RFID : New Tag: {decimal}, 0x{hex}, mask: {skip}xffffff Bits: {bits}",
        "24:CEEF27",
    ),
    (
        b"5412: PN532: New Tag: 69807706 (04:29:2E:5A)\r\n",
        "{skip}: PN{skip}: New Tag: {decimal} ({id})",
        "32:04292E5A",
    ),
    (b"Card UID: 04 29 2E 5A\r\nCard SAK: 08\r\nPICC type: MIFARE 1KB\r\n", "Card UID: {id}", "32:04292E5A"),
    (b"Found an ISO14443A card\r\n  UID Value: 0x04 0x29 0x2E 0x5A\r\n", "UID Value: {id}", "32:04292E5A"),
    (b"$0x04,0x29,0x2E,0x5A#\r\n", "${id}#", "32:04292E5A"),
    (b"INSIDE:23,192,251,159,179\r\n", "INSIDE:{decimal}", "32:17C0FB9F"),
    (b"211 41 146 9\r\n", "{decimal}", "32:D3299209"),
    (b"0063E9AE 0006547886\r\n", "{hex} {decimal}", "32:0063E9AE"),
    (b"061,04822\r\n", "{fc},{cn}", "24:3D12D6"),
    (b"W26 FC61 CN4822\r\n", "W{bits} FC{fc} CN{cn}", "24:3D12D6"),
    (b"350646766781206510000011\r", "{hex}", "96:350646766781206510000011"),
    (b"E280-1160-6000-0204-0000-1234\r\n", "{id}", "96:E28011606000020400001234"),
    (
        b"Tag:E28011606000020400001234,RSSI:-55,ANT:1\r\n",
        "Tag:{hex},RSSI:-{skip},ANT:{skip}",
        "96:E28011606000020400001234",
    ),
    (b"LA 982 123456789012\r\n", "LA {fc} {cn}", "48:F59CBE991A14"),
    (b"LA 00 0 982 000123456789\r\n", "LA 00 0 {fc} {cn}", "48:F580075BCD15"),
    (b"985112345678903\r\n", "{fc:3}{cn:12}", "48:F65A28530437"),
    (b"2024-05-06 07:08:09,READER1,0006547886,OK\r\n", "{skip},READER1,{decimal},OK", "32:0063E9AE"),
    (b"1T0123456789\r\n", "1T{decimal}", "32:075BCD15"),
    (b"No card\r\nNo card\r\n6B3D12D6\r\n", "{hex}", "32:6B3D12D6"),
]


@pytest.mark.parametrize(("text", "template", "card"), TEXTS)
def test_the_suggested_options_read_the_card_and_nothing_else(text: bytes, template: str, card: str) -> None:
    options = suggestion(text_lines(text * 3)).options

    assert options["template"] == template
    events = make_protocol("line", options).receive_data(text, 0.0)
    decoder = Decoder(DEFAULT_FORMATS)
    outcomes = [decoder(event) if isinstance(event, RawCredential) else event for event in events]
    assert [f"{o.bits}:{o.raw}" if isinstance(o, CardRead) else o for o in outcomes] == [card]


@pytest.mark.parametrize(
    "text",
    [
        b"12:34:56 started\r\n",
        b"K1\r\nK2\r\nK#\r\n",
        b"uptime 40 min\r\n",
        # Left out, the second number would make one card of many.
        b"6035530012345678901=99121010000\r\n",
    ],
)
def test_nothing_is_suggested_for_text_without_one_number_of_a_card(text: bytes) -> None:
    assert suggestion(text_lines(text * 3)).options == {}


@pytest.mark.parametrize(("text", "_template", "_card"), TEXTS)
def test_no_suggestion_has_a_number_of_the_card_in_its_text(text: bytes, _template: str, _card: str) -> None:
    options = suggestion(text_lines(text * 3)).options

    long_numbers = [
        word for word in text.decode().replace("0x", " ").split() if sum(map(str.isdigit, word)) > 4
    ]
    assert not any(word in str(value) for value in options.values() for word in long_numbers)


def test_lines_that_are_printed_without_leading_zeros_are_read_together() -> None:
    options = suggestion(["UID:4292E5A", "UID:A4F92E5A"]).options

    assert options == {"template": "UID:{hex}", "bits": 32, "unpadded": "yes"}


@given(
    st.lists(
        st.text(st.sampled_from("0123456789ABCDEFxXf {}|:,.-=\"'[]UIDCNWbits#$%"), min_size=1), min_size=1
    )
)
def test_any_text_has_a_suggestion_that_reads_its_example_or_none(lines: list[str]) -> None:
    options, example = suggestion(lines)

    assert example in lines
    if options:
        events = make_protocol("line", options).receive_data(f"{example}\r\n".encode(), 0.0)
        assert any(isinstance(event, RawCredential) for event in events)


@pytest.mark.timeout(20)  # took minutes when lines of any length were tried
def test_lines_that_are_too_long_for_a_card_are_not_searched() -> None:
    chooser = Random(1)  # noqa: S311 - a fixed text
    text = "".join(chooser.choices("0123456789ABCDEFabcxX :-,.=", k=4000))

    assert suggestion([text] * 3) == ({}, text)
    assert suggestion([text, "UID: 04292E5A"]).example == "UID: 04292E5A"
