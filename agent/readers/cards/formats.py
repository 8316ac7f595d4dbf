"""The table of card formats, one entry each, in a notation close to how vendors print them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import compress, cycle
from types import MappingProxyType
from typing import Literal

from agent.readers.cards.card_format import CardFormat, Parity, Positions


def _format(
    name: str,
    bits: int,
    description: str,
    *,
    card_number: str,
    facility_code: str = "",
    issue: str = "",
    oem: str = "",
    parities: str = "",
    fixed: str = "",
    preset: str = "",
    decimal_digits: bool = False,
    contested: str = "",
) -> CardFormat:
    """A row of the table.

    Places are written "1-8", "9 4 6" or "2-33/110" (two of every three), a parity "0 even 1-12",
    bits of a given value "0-3=1111".
    """
    return CardFormat(
        name=name,
        description=description,
        bits=bits,
        card_number=_places(card_number),
        facility_code=_places(facility_code),
        issue=_places(issue),
        oem=_places(oem),
        parities=tuple(map(_parity, parities.split("; "))) if parities else (),
        fixed=_settings(fixed),
        preset=_settings(preset),
        decimal_digits=decimal_digits,
        contested=contested,
    )


def _places(text: str) -> Positions:
    return tuple(place for term in text.split() for place in _term(term))


def _term(text: str) -> Iterator[int]:
    ends, _, pattern = text.partition("/")
    first, _, last = ends.partition("-")
    return compress(range(int(first), int(last or first) + 1), map(int, cycle(pattern or "1")))


def _parity(text: str) -> Parity:
    position, kind, covers = text.split(maxsplit=2)
    even_or_odd: Literal["even", "odd"] = "even" if kind == "even" else "odd"
    return Parity(int(position), even_or_odd, _places(covers))


def _settings(text: str) -> tuple[tuple[int, int], ...]:
    places, _, bits = text.partition("=")
    return tuple(zip(_places(places), map(int, bits), strict=True))


_XOR_BYTE = "; ".join(f"{32 + bit} even {bit} {8 + bit} {16 + bit} {24 + bit}" for bit in range(8))

_TABLE = (
    _format(
        "H10301",
        26,
        "HID 26-bit, the open standard format",
        facility_code="1-8",
        card_number="9-24",
        parities="0 even 1-12; 25 odd 13-24",
    ),
    # The same parity as H10301: whatever fits one fits the other.
    _format(
        "ind26",
        26,
        "Indala 26-bit",
        facility_code="1-12",
        card_number="13-24",
        parities="0 even 1-12; 25 odd 13-24",
    ),
    _format("ind27", 27, "Indala 27-bit", facility_code="0-12", card_number="13-26"),
    _format(
        "indasc27",
        27,
        "Indala ASC 27-bit",
        facility_code="9 4 6 5 0 7 19 8 10 16 24 12 22",
        card_number="26 1 3 15 14 17 20 13 25 2 18 21 11 23",
    ),
    _format(
        "Tecom27",
        27,
        "Tecom 27-bit",
        facility_code="15 19 24 23 22 18 6 10 14 3 2",
        card_number="0 1 13 12 9 26 20 16 17 21 25 7 8 11 4 5",
    ),
    # Bit 0 covers bit 2, and bit 27 covers both: the order counts. Bits 1 and 3 belong to no field.
    _format(
        "2804W",
        28,
        "2804 Wiegand 28-bit",
        facility_code="4-11",
        card_number="12-26",
        parities="2 odd 4-26/110; 0 even 1-13; 27 odd 0-26",
    ),
    _format("ind29", 29, "Indala 29-bit", facility_code="0-12", card_number="13-28"),
    _format(
        "ATSW30",
        30,
        "ATS Wiegand 30-bit",
        facility_code="1-12",
        card_number="13-28",
        parities="0 even 1-12; 29 odd 13-28",
    ),
    _format("ADT31", 31, "HID ADT 31-bit", facility_code="1-4", card_number="5-27"),
    _format("HCP32", 32, "HID Check Point 32-bit", card_number="1-24"),
    _format(
        "HPP32",
        32,
        "HID Hewlett-Packard 32-bit",
        facility_code="1-12",
        card_number="13-31",
        contested="the only source lets the card number run past the end of the card",
    ),
    _format(
        "Kastle",
        32,
        "Kastle 32-bit",
        facility_code="7-14",
        card_number="15-30",
        issue="2-6",
        parities="0 even 1-16; 31 odd 14-30",
        fixed="1=1",
    ),
    _format("Kantech", 32, "Indala and Kantech KFS 32-bit", facility_code="7-14", card_number="15-30"),
    _format("WIE32", 32, "Wiegand 32-bit", facility_code="4-15", card_number="16-31"),
    # Both parities cover bit 16.
    _format(
        "D10202",
        33,
        "HID 33-bit (DSX)",
        facility_code="1-7",
        card_number="8-31",
        parities="0 even 1-16; 32 odd 16-31",
    ),
    _format(
        "H10306",
        34,
        "HID 34-bit",
        facility_code="1-16",
        card_number="17-32",
        parities="0 even 1-16; 33 odd 17-32",
    ),
    # Bit for bit H10306 under another name.
    _format(
        "N10002",
        34,
        "Honeywell and Northern 34-bit",
        facility_code="1-16",
        card_number="17-32",
        parities="0 even 1-16; 33 odd 17-32",
    ),
    _format("Optus34", 34, "Indala Optus 34-bit", facility_code="22-32", card_number="1-16"),
    _format(
        "SMP34", 34, "Cardkey Smartpass 34-bit", facility_code="1-13", card_number="17-32", issue="14-16"
    ),
    _format(
        "BQT34",
        34,
        "BQT 34-bit",
        facility_code="1-8",
        card_number="9-32",
        parities="0 even 1-16; 33 odd 17-32",
    ),
    # Bit 34 covers bit 1, and bit 0 covers both.
    _format(
        "C1k35s",
        35,
        "HID Corporate 1000, 35-bit",
        facility_code="2-13",
        card_number="14-33",
        parities="1 even 2-33/110; 34 odd 1-32/110; 0 odd 1-34",
    ),
    _format(
        "C15001",
        36,
        "HID KeyScan 36-bit",
        facility_code="11-18",
        card_number="19-34",
        oem="1-10",
        parities="0 even 1-17; 35 odd 18-34",
    ),
    _format(
        "S12906",
        36,
        "HID Simplex 36-bit",
        facility_code="1-8",
        card_number="11-34",
        issue="9-10",
        parities="0 odd 1-17; 35 odd 17-34",
    ),
    # Only ever seen with facility code 217. Bit 35 belongs to no field but to two parities.
    _format(
        "S12906b",
        36,
        "HID Simplex Grinnell 36-bit",
        facility_code="1-8",
        card_number="11-34",
        parities="0 odd 1-8/110 12-34/110; 9 even 2-8/110 11 13-35/110; 10 even 1 3-7/110 11-35/110",
        fixed="1-8=11011001",
    ),
    _format(
        "Sie36",
        36,
        "HID Siemens 36-bit",
        facility_code="1-18",
        card_number="19-34",
        parities="0 odd 1 3-34/110; 35 even 1-34/110",
    ),
    _format(
        "H10320",
        37,
        "HID 37-bit of eight decimal digits",
        card_number="0-31",
        parities="32 even 0-28/1000; 33 odd 1-29/1000; 34 even 2-22/1000 28 30; 35 even 3-23/1000 29 31",
        fixed="0=1",
        decimal_digits=True,
        contested="its two last parity sets leave the pattern of the others",
    ),
    _format(
        "H10302",
        37,
        "HID 37-bit without facility code",
        card_number="1-35",
        parities="0 even 1-18; 36 odd 18-35",
    ),
    _format(
        "H10304",
        37,
        "HID 37-bit with facility code",
        facility_code="1-16",
        card_number="17-35",
        parities="0 even 1-18; 36 odd 18-35",
    ),
    _format("P10004", 37, "HID PCSC 37-bit", facility_code="1-13", card_number="14-31"),
    _format(
        "HGen37",
        37,
        "HID generic 37-bit",
        card_number="4-35",
        parities="0 even 4-32/1000; 2 odd 6-34/1000; 3 even 7-35/1000",
        fixed="36=1",
        contested="the only source checks another parity set than it writes",
    ),
    _format(
        "MDI37",
        37,
        "PointGuard MDI 37-bit",
        facility_code="3-6",
        card_number="7-35",
        parities="0 even 1-18; 36 odd 18-35",
        contested="contradicted by 42 real cards, which fit S10401",
    ),
    _format(
        "S10401",
        37,
        "AMAG and PointGuard 37-bit, as read from real cards",
        facility_code="1-6",
        card_number="7-35",
        parities="0 even 1-17; 36 odd 18-35",
    ),
    _format(
        "BQT38",
        38,
        "BQT 38-bit",
        facility_code="24-36",
        card_number="1-19",
        issue="20-23",
        parities="0 even 1-18; 37 odd 19-36",
    ),
    _format(
        "ISCS",
        38,
        "ISCS 38-bit",
        facility_code="5-14",
        card_number="15-36",
        oem="1-4",
        parities="0 even 1-18; 37 odd 19-36",
    ),
    _format(
        "PW39",
        39,
        "Pyramid 39-bit",
        facility_code="1-17",
        card_number="18-37",
        parities="0 even 1-18; 38 odd 19-37",
    ),
    # The last byte is the XOR of the four before it, which is one even parity for each of its bits.
    _format(
        "P10001",
        40,
        "Honeywell 40-bit",
        facility_code="4-15",
        card_number="16-31",
        parities=_XOR_BYTE,
        preset="0-3=1111",
    ),
    _format(
        "EM4100",
        40,
        "125 kHz tags: version byte and printed number, 40-bit",
        facility_code="0-7",
        card_number="8-39",
    ),
    _format("Casi40", 40, "Casi-Rusco 40-bit", card_number="1-38"),
    _format(
        "Verkada40",
        40,
        "Verkada 40-bit",
        facility_code="1-10",
        card_number="11-38",
        parities="0 even 1-10; 39 even 11-38",
    ),
    _format(
        "BC40",
        40,
        "Bundy TimeClock 40-bit",
        facility_code="7-18",
        card_number="19-37",
        oem="0-6",
        parities="39 odd 19-37",
    ),
    _format(
        "Defcon32",
        42,
        "Defcon RFCTF 42-bit",
        facility_code="1-16",
        card_number="21-40",
        issue="17-20",
        parities="0 even 2-20/10; 41 odd 21-39/10",
    ),
    _format(
        "H800002",
        46,
        "HID 46-bit",
        facility_code="1-14",
        card_number="15-44",
        parities="0 even 1-44; 45 odd 1-44",
    ),
    # As C1k35s: in the order given.
    _format(
        "C1k48s",
        48,
        "HID Corporate 1000, 48-bit",
        facility_code="2-23",
        card_number="24-46",
        parities="1 even 3-46/110; 47 odd 2-45/110; 0 odd 1-47",
    ),
    _format(
        "Avig56",
        56,
        "Avigilon 56-bit",
        facility_code="1-20",
        card_number="21-54",
        parities="0 even 1-27; 55 odd 28-54",
    ),
    _format("IR56", 56, "Inner Range 56-bit", facility_code="0-23", card_number="24-55"),
)

FORMATS: Mapping[str, CardFormat] = MappingProxyType({known.name: known for known in _TABLE})
# Every length a card format is known for. Any other length is a card that lost or gained bits,
# or keys that ran together.
CARD_BITS = frozenset(known.bits for known in _TABLE)
