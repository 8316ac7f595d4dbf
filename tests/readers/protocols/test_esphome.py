from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.cards.decoder import Decoder
from agent.readers.cards.formats import FORMATS
from agent.readers.events import CredentialKind, Noise, NoiseReason, RawCredential
from agent.readers.protocols import make_protocol
from agent.swipe import CardCheck, CardRead

TAG = b"[D][wiegand:095]: received 26-bit tag: 4002518\r\n"
INVALID = b"\x1b[0;33m[12:00:01.250][W][wiegand:097]: invalid parity\x1b[0m\r\n"
WORD = RawCredential(24, 0x3D12D6, form=CredentialKind.DATA, unpadded=True)


@pytest.mark.parametrize("noise", [b"~", b"\xff", b"~\xff"])
@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_noise_without_a_line_end_holds_a_tag_no_longer_than_its_parity_line_could_be(
    noise: bytes, at_once: int
) -> None:
    wire = make_protocol("esphome")
    wire.receive_data(TAG, 0.0)

    frames = [
        frame for _ in range(0, 100, at_once) for frame in wire.receive_data((noise * 1000)[:at_once], 0.0)
    ]

    assert [frame for frame in frames if isinstance(frame, RawCredential)] == [WORD]


def test_the_parity_line_is_waited_for_behind_noise_too() -> None:
    wire = make_protocol("esphome")

    frames = [*wire.receive_data(TAG + b"\xff~", 0.0), *wire.receive_data(INVALID, 0.0)]

    assert frames == [Noise(NoiseReason.STRAY), Noise(NoiseReason.PARITY)]


def test_a_parity_line_that_comes_too_late_says_nothing_of_the_tag() -> None:
    wire = make_protocol("esphome")

    frames = wire.receive_data(TAG + b"~" * 80 + INVALID, 0.0)

    assert frames == [WORD, Noise(NoiseReason.SYNTAX)]


@pytest.mark.parametrize("at_once", [1, 31, 1000])
def test_what_a_tag_has_waited_for_counts_however_the_bytes_are_cut(at_once: int) -> None:
    wire = make_protocol("esphome")
    wire.receive_data(TAG, 0.0)
    late = b"\xff" * 30 + b"\n" + INVALID

    frames = [
        frame
        for at in range(0, len(late), at_once)
        for frame in wire.receive_data(late[at : at + at_once], 0.0)
    ]

    assert [frame for frame in frames if isinstance(frame, RawCredential)] == [WORD]


# --- on_tag -----------------------------------------------------------------------------------

# As the component prints a network that a scan found: the name as it is, with up to 32 bytes.
SCAN = (
    b"\x1b[0;32m[I][wifi:489]: - '%s' \x1b[5m(F0:9F:C2:11:22:33) \x1b[6m\x1b[0;32m\xe2\x96\x82\x1b[0m\r\n"
    b"\x1b[0;36m[D][wifi:490]:     Channel: 6\x1b[0m\r\n"
)
HIGHEST_TAG = (1 << 35) - 1  # of a 37-bit card


def on_tag_line(number: int) -> bytes:
    return b"\x1b[0;36m[D][TAG:031]: received tag %d\x1b[0m\r\n" % number


@given(st.integers(1, HIGHEST_TAG))
def test_a_tag_of_on_tag_has_a_width_of_no_card_format(number: int) -> None:
    """Its length is not logged: as a word of any format it could be another person's card."""
    wire = make_protocol("esphome", {"on_tag": "read"})

    events = [*wire.receive_data(on_tag_line(number), 0.0), *wire.receive_data(on_tag_line(1), 0.0)]

    assert 64 not in {bits for known in FORMATS.values() for bits in (known.bits, known.data_bits)}
    credential = events[0]
    assert isinstance(credential, RawCredential)
    card = Decoder(FORMATS)(credential)
    assert isinstance(card, CardRead)
    assert (card.bits, card.raw, card.check) == (64, f"{number:016X}", CardCheck.NONE)
    assert (card.matches, card.facility_code, card.card_number) == ((), None, None)


def test_a_tag_of_on_tag_is_released_by_silence_and_one_of_more_bits_is_noise() -> None:
    wire = make_protocol("esphome", {"on_tag": "read"})

    too_many = wire.receive_data(on_tag_line(HIGHEST_TAG + 1), 0.0)
    wire.receive_data(on_tag_line(4002518), 1.0)
    after_silence = wire.handle_timeout(2.0)

    assert too_many == [Noise(NoiseReason.LENGTH)]
    assert after_silence == [RawCredential(64, 4002518, form=CredentialKind.IDENTIFIER, unpadded=True)]


def test_without_the_option_on_tag_is_no_card() -> None:
    wire = make_protocol("esphome")

    assert [*wire.receive_data(on_tag_line(4002518), 0.0), *wire.handle_timeout(1.0)] == []


@pytest.mark.parametrize("at_once", [1, 1000])
@pytest.mark.parametrize("on_tag", ["ignore", "read"])
@pytest.mark.parametrize(
    "name",
    [
        b"received 26-bit tag: 4002518",
        b"[D][TAG:1]: received tag 4002518",
        b"\n[D][TAG:1]: received tag 12345\n",
        b"\r[D][main:1]: received tag 1234\r",
        b"x'\n[D][TAG:1]: received tag 12\n",
        b"\n[D][TAG:1]: received tag 1\n\xff",
        b"\n[D][RAW:1]: received raw 26 bits",
    ],
)
def test_the_name_of_a_wifi_network_in_a_scan_forges_no_card(name: bytes, on_tag: str, at_once: int) -> None:
    wire = make_protocol("esphome", {"on_tag": on_tag})
    log = SCAN % name[:32]

    events = [
        event
        for at in range(0, len(log), at_once)
        for event in wire.receive_data(log[at : at + at_once], 0.0)
    ]
    events += wire.handle_timeout(1.0)

    assert [event for event in events if not isinstance(event, Noise)] == []
