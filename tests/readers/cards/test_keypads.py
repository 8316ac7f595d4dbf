"""What is typed at a keypad is never taken for a card."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.decoder import KEY_BITS, Decoder, decode, encode
from agent.readers.events import CredentialKind, Key, Noise, NoiseReason, RawCredential
from agent.readers.protocols import make_protocol
from agent.settings import DEFAULT_FORMATS, Keypad
from agent.swipe import CardCheck, CardRead


@pytest.mark.parametrize("bits", sorted(KEY_BITS))
@given(st.data())
def test_words_of_key_length_are_never_cards(bits: int, data: st.DataObject) -> None:
    value = data.draw(st.integers(0, (1 << bits) - 1))

    outcome = decode(RawCredential(bits, value), DEFAULT_FORMATS)

    upside_down = bits == 8 and value in {0x0F, 0x1E, 0x2D, 0x3C}
    assert outcome == (Noise(NoiseReason.SWAPPED) if upside_down else Key())


@pytest.mark.parametrize("key", range(12))
def test_every_key_of_an_8_bit_pad_is_a_key(key: int) -> None:
    word = RawCredential(8, (key ^ 0xF) << 4 | key)

    assert decode(word, DEFAULT_FORMATS) == Key()


def pad(code: int, pin: int) -> list[RawCredential]:
    """The ways in which the PIN of a 26-bit pad may arrive."""
    return [
        RawCredential(26, encode("H10301", code, pin)),
        RawCredential(26, encode("H10301", code, pin) ^ 1),
        RawCredential(24, code << 16 | pin, CardCheck.UPSTREAM, CredentialKind.DATA),
        RawCredential(32, code << 16 | pin, CardCheck.NONE, CredentialKind.ID),
    ]


@given(pin=st.integers(0, 65_535), code=st.integers(0, 255))
def test_what_a_declared_26_bit_pad_sends_is_a_key_however_it_arrives(pin: int, code: int) -> None:
    decoder = Decoder(DEFAULT_FORMATS, parity="flag", keypad="card26", pin_facility_code=code)

    assert [decoder(word) for word in pad(code, pin)] == [Key()] * 4


@given(pin=st.integers(1, 65_534), code=st.integers(1, 255))
def test_cards_of_another_facility_code_pass_a_declared_pad(pin: int, code: int) -> None:
    decoder = Decoder(DEFAULT_FORMATS, parity="flag", keypad="card26")

    assert all(isinstance(decoder(word), CardRead) for word in pad(code, pin))


@pytest.mark.parametrize(
    "word",
    [
        RawCredential(37, encode("H10304", 0, 1234)),
        RawCredential(34, encode("H10306", 0, 1234)),
        RawCredential(32, 1234, CardCheck.UPSTREAM, CredentialKind.DATA),
        RawCredential(32, 1234, CardCheck.CHECKSUM, CredentialKind.ID),
    ],
)
def test_a_26_bit_pad_sends_no_other_words(word: RawCredential) -> None:
    assert isinstance(Decoder(DEFAULT_FORMATS, keypad="card26")(word), CardRead)


@pytest.mark.parametrize("keypad", ["none", "burst4", "burst8"])
def test_a_pad_that_was_not_declared_is_not_guessed(keypad: Keypad) -> None:
    outcome = Decoder(DEFAULT_FORMATS, keypad=keypad)(RawCredential(26, 0x001FFFF))

    assert outcome == CardRead(26, "001FFFF", CardCheck.PARITY, "H10301", 0, 65_535, matches=("H10301",))


@given(st.lists(st.integers(0, 11), min_size=4, max_size=8))
def test_keys_of_a_declared_8_bit_pad_that_ran_together_are_no_card(keys: list[int]) -> None:
    value = int.from_bytes(bytes((key ^ 0xF) << 4 | key for key in keys), "big")
    word = RawCredential(8 * len(keys), value)

    assert Decoder(DEFAULT_FORMATS, keypad="burst8")(word) == Key()


def test_a_declared_8_bit_pad_does_not_cost_cards() -> None:
    decoder = Decoder(DEFAULT_FORMATS, keypad="burst8")

    assert isinstance(decoder(RawCredential(32, 0xE1E1E1E0)), CardRead)
    assert isinstance(decoder(RawCredential(26, 0x2F657AE)), CardRead)


@pytest.mark.parametrize(("keypad", "is_card"), [("none", True), ("burst4", False), ("card26", False)])
def test_what_may_be_a_pin_is_a_card_only_where_no_keypad_was_declared(keypad: Keypad, is_card: bool) -> None:  # noqa: FBT001 - a case
    word = RawCredential(32, 0x12345678, CardCheck.CHECKSUM, CredentialKind.ID, maybe_pin=True)

    assert isinstance(Decoder(DEFAULT_FORMATS, keypad=keypad)(word), CardRead) is is_card


def test_a_reader_has_no_keypad_unless_one_is_declared() -> None:
    word = RawCredential(32, 0x12345678, CardCheck.CHECKSUM, CredentialKind.ID, maybe_pin=True)

    assert isinstance(Decoder(DEFAULT_FORMATS)(word), CardRead)


@pytest.mark.parametrize("keypad", ["burst4", "burst8", "card26"])
@pytest.mark.parametrize(
    ("name", "options"),
    [("rfideas", {}), ("line", {"pattern": r"(?P<decimal>\d+)"})],
    ids=["rfideas", "line"],
)
def test_a_short_number_of_no_declared_width_is_a_key_where_there_is_a_keypad(
    name: str, options: dict[str, object], keypad: Keypad
) -> None:
    decoder = Decoder(DEFAULT_FORMATS, keypad=keypad)

    outcomes = [
        decoder(word)
        for word in make_protocol(name, options).receive_data(b"1234\r", 0.0)
        if isinstance(word, RawCredential)
    ]

    assert outcomes == [Key()]
