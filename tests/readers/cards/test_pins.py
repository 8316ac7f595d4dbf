"""PINs x pads x protocols: with its pad declared, no PIN is ever a card."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from agent.readers.cards.decoder import Decoder, encode
from agent.readers.events import RawCredential
from agent.readers.protocols import make_protocol
from agent.settings import DEFAULT_FORMATS, Keypad
from agent.swipe import CardRead

PINS = ["0000", "1234", "9999", "12345", "00001", "123456", "999999", "654321", "000000", "111111"]
KEYS = "0123456789*#"


def h10301(number: int) -> int:
    return encode("H10301", number >> 16, number & 0xFFFF)


def h10306(number: int) -> int:
    return encode("H10306", number >> 16, number & 0xFFFF)


def burst8(pin: str) -> int:
    return int.from_bytes(bytes((KEYS.index(key) ^ 0xF) << 4 | KEYS.index(key) for key in pin), "big")


def burst4(pin: str) -> int:
    return int("".join(f"{KEYS.index(key):X}" for key in pin), 16)


# What a pad sends for a PIN: the bits on the data lines.
WORDS: dict[Keypad, Callable[[str], tuple[int, int]]] = {
    "pin26": lambda pin: (26, h10301(int(pin))),
    "pin26bcd": lambda pin: (26, h10301(int(pin, 16))),
    "pin34": lambda pin: (34, h10306(int(pin))),
    "card26": lambda pin: (26, h10301(int(pin) & 0xFFFF)),
    "burst4": lambda pin: (4 * len(pin), burst4(pin)),
    "burst8": lambda pin: (8 * len(pin), burst8(pin)),
}


def lines_of(bits: int, value: int) -> list[tuple[str, dict[str, object], bytes]]:
    """How converters and sketches pass the word on, with its parity bits or without."""
    digits = (bits + 3) // 4
    lines: list[tuple[str, dict[str, object], bytes]] = [
        ("bits", {}, b"%d:%0*X\r\n" % (bits, digits, value)),
        ("bits", {}, f"{value:0{bits}b}\r\n".encode()),
        ("elatec-bits", {}, b"%02X%0*X\r\n" % (bits, -(-bits // 8) * 2, value << -bits % 8)),
        ("esphome", {}, b"[I][RAW:031]: received raw %d bits, value %x\r\n" % (bits, value)),
        ("line", {"template": "{raw}", "bits": bits}, b"%0*X\r\n" % (digits, value)),
    ]
    if bits in (26, 34):
        data, data_bits = value >> 1 & (1 << bits - 2) - 1, bits - 2
        lines += [
            ("wie232", {}, b"%0*X\r\n" % (data_bits // 4, data)),
            ("wg2rs232", {}, b"%0*X\r\n" % (data_bits // 4, data)),
            ("monkeyboard", {}, b"Wiegand HEX = %X, DECIMAL = %d, Type W%d\r\n" % (data, data, bits)),
            ("yaawl", {}, b"Card readed: %dbits / %0*X\r\n" % (data_bits, data_bits // 4, data)),
            ("esphome", {}, b"[D][wiegand:095]: received %d-bit tag: %d\r\n" % (bits, data)),
            ("s4a", {}, b"%010d\r\n" % data),
            ("rfideas", {}, b"%d\r\n" % data),
            ("rfideas", {"bits": data_bits}, b"%d\r\n" % data),
            ("line", {"template": "{decimal}"}, b"%d\r\n" % data),
            ("line", {"template": "{hex}", "bits": data_bits, "unpadded": "yes"}, b"%X\r\n" % data),
            ("line", {"template": "{bits} {decimal}"}, b"%d %d\r\n" % (bits, data)),
        ]
    return lines


CASES = [
    (keypad, pin, name, options, text)
    for keypad, word in WORDS.items()
    for pin in PINS
    for name, options, text in lines_of(*word(pin))
]


@pytest.mark.parametrize("keypad", WORDS)
def test_no_pin_of_a_declared_pad_is_a_card(keypad: Keypad) -> None:
    rows = []
    for _, pin, name, options, text in (case for case in CASES if case[0] == keypad):
        wire = make_protocol(name, options)
        decoder = Decoder(DEFAULT_FORMATS, parity="flag", keypad=keypad)
        events = [*wire.receive_data(text, 0.0), *wire.handle_timeout(math.inf)]
        outcomes = [decoder(event) for event in events if isinstance(event, RawCredential)]
        rows += [(pin, name, text) for outcome in outcomes if isinstance(outcome, CardRead)]

    assert rows == []


def test_pads_and_pins_are_told_apart_from_cards_by_the_range_of_their_numbers() -> None:
    above = RawCredential(26, h10301(1_000_000))

    assert isinstance(Decoder(DEFAULT_FORMATS, keypad="pin26")(above), CardRead)
    assert not isinstance(Decoder(DEFAULT_FORMATS, keypad="pin26", pin_digits=7)(above), CardRead)
    assert isinstance(Decoder(DEFAULT_FORMATS, keypad="pin34")(above), CardRead)
    assert isinstance(
        Decoder(DEFAULT_FORMATS, keypad="pin26bcd")(RawCredential(26, h10301(0x12345A))), CardRead
    )
