"""The contract of agent.readers.protocol, kept by every registered protocol."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.readers.cards.decoder import Decoder
from agent.readers.events import CredentialKind, Key, Noise, NoiseReason, RawCredential, ReaderEvent, Status
from agent.readers.framing.line_framer import LONGEST_LINE_BYTES
from agent.readers.framing.noise import LONGEST_RUN_BYTES
from agent.readers.protocol import WireProtocol
from agent.readers.protocols import STANDALONE, make_protocol
from agent.readers.protocols.uhfreader18 import crc16
from agent.settings import DEFAULT_FORMATS
from agent.swipe import CardCheck, CardRead

# Before the first request of a polled protocol is due: the timer that runs is the silence timer.
NOW = -1000.0
HELD_BYTES_MAX = LONGEST_RUN_BYTES + LONGEST_LINE_BYTES
# In front of what these print there may be the bridge's own words: no noise.
FREE_TEXT = ("line", "monkeyboard", "yaawl")
# A gap ends their frames, so that a card is returned after it.
ENDED_BY_SILENCE = ("em18",)
KERNEL_BUFFER_BYTES = 4_096
OPTIONS = {"line": {"pattern": r"CARD (?P<bits>\d+) (?P<raw>[0-9A-F]+)"}}


def make(name: str, sample: Sample | None = None) -> WireProtocol:
    return make_protocol(name, (sample and sample.options) or OPTIONS.get(name, {}))


@dataclass(frozen=True)
class Sample:
    """A good frame, what comes out of it, and what ends noise so that a frame may begin."""

    frame: bytes
    word: RawCredential | Key
    noise_end: bytes = b""
    digit: int = 5  # a place in the frame that the word depends on
    options: Mapping[str, object] = field(default_factory=dict)
    ambiguous: str = ""  # why it is noise after other characters on its line


def tag(bits: int, value: int, check: CardCheck = CardCheck.CHECKSUM) -> RawCredential:
    return RawCredential(bits, value, check, CredentialKind.ID)


def identifier(bits: int, value: int) -> RawCredential:
    return RawCredential(bits, value, CardCheck.CHECKSUM, CredentialKind.IDENTIFIER)


def with_crc(data: bytes) -> bytes:
    """A frame of a Chafon reader."""
    return data + crc16(data).to_bytes(2, "little")


def line(text: bytes, word: RawCredential | Key, ambiguous: str = "", **options: object) -> Sample:
    """A frame that is a line of text."""
    return Sample(text + b"\r\n", word, noise_end=b"\n", ambiguous=ambiguous, options=options)


_ANYBODYS_TEXT = "the text before it may be anybody's, as the name of a Wi-Fi network"
TAG = tag(40, 0x3C00CE754C)
CONVERTED = RawCredential(24, 0x3D12D6, CardCheck.UPSTREAM, CredentialKind.DATA)
SAMPLES = {
    "rdm6300": [
        Sample(b"\x023C00CE754CCB\x03", TAG),
        Sample(b"\x023C00CE754C\xcb\x03", TAG),
        Sample(b"\x020000000002\x02\x03", tag(40, 2)),
        Sample(b"\x020000000003\x03\x03", tag(40, 3)),
    ],
    "id12la": [Sample(b"\x023C00CE754CCB\r\n\x03", TAG)],
    "em18": [Sample(b"3C00CE754CCB", TAG, noise_end=b"\xff")],
    "parallax": [Sample(b"\n0F0184F07A\r", tag(40, 0x0F0184F07A, CardCheck.NONE))],
    "gwiot7941": [
        Sample(bytes.fromhex("02 0A 02 2E00B6D7B5 F2 03"), tag(40, 0x2E00B6D7B5)),
        Sample(bytes.fromhex("02 09 01 6B3D12D6 9A 03"), tag(32, 0x6B3D12D6)),
        Sample(bytes.fromhex("02 09 03 02030203 0A 03"), tag(32, 0x02030203)),
        Sample(bytes.fromhex("02 0C 01 04A1B2C3D4E5F6 1E 03"), tag(56, 0x04A1B2C3D4E5F6)),
    ],
    "gwiot7941w": [
        Sample(bytes.fromhex("CDDC 00 81 04 6B3D12D6 17"), tag(32, 0x6B3D12D6)),
        Sample(bytes.fromhex("CDDC 00 81 05 CDDCCDDC01 85"), tag(40, 0xCDDCCDDC01)),
    ],
    # These lines contain their length or a mark of their beginning, so that they may follow static.
    "bits": [
        Sample(b"26:2F657AE" + end, RawCredential(26, 0x2F657AE), noise_end=b"\n")
        for end in (b"\r", b"\n", b"\r\n")
    ]
    + [
        line(b"W26:2f657ae", RawCredential(26, 0x2F657AE)),
        line(
            b"10111101100101011110101110",
            RawCredential(26, 0x2F657AE),
            "zeros and ones that lost their beginning are a shorter word",
        ),
        Sample(b"26:2F657AE\n", RawCredential(26, 0x2F657AE), noise_end=b"\xff"),
    ],
    "elatec-bits": [
        Sample(
            b"1A808001C0\r",
            RawCredential(26, 0x2020007),
            noise_end=b"\xff",
            ambiguous="any two digits could be the count: one number in a few dozen would be a card",
        )
    ],
    "elatec-inditag": [Sample(b":112233445501\r\n", tag(40, 0x1122334455), noise_end=b"\xff")],
    "s4a": [line(b"0000123478", tag(32, 123478, CardCheck.NONE))],
    "yaawl": [
        Sample(b"Card readed: 24bits / 3D12D6\r\n", CONVERTED, noise_end=b"\xff"),
        line(b"Card readed: 4bits / 05", RawCredential(4, 5)),
    ],
    "monkeyboard": [
        Sample(
            b"Wiegand HEX = 1E256, DECIMAL = 123478, Type W34\r\n",
            RawCredential(32, 0x1E256, CardCheck.NONE, CredentialKind.DATA),
            noise_end=b"\xff",
            digit=14,
        ),
        line(b"Wiegand HEX = D, DECIMAL = 13, Type W4", Key()),
    ],
    "esphome": [
        Sample(
            b"[I][RAW:031]: received raw 26 bits, value 2f657ae\r\n",
            RawCredential(26, 0x2F657AE),
            noise_end=b"\n",
            digit=-4,
            ambiguous=_ANYBODYS_TEXT,
        ),
        line(b"\x1b[0;36m[I][KEY:027]: received key 5\x1b[0m", Key(), _ANYBODYS_TEXT),
        line(
            b"[D][pn532:117]: Found new tag 'A6-DF-51-DE'",
            tag(32, 0xA6DF51DE, CardCheck.NONE),
            _ANYBODYS_TEXT,
        ),
        line(
            b"[D][rdm6300:073]: Found new tag with ID 8430729",
            tag(32, 8430729, CardCheck.NONE)._replace(unpadded=True),
            _ANYBODYS_TEXT,
        ),
    ],
    "twn4": [line(b"00B6D7B5", tag(32, 0xB6D7B5, CardCheck.NONE), "the end of a longer id is a shorter one")],
    "twn4-simple": [
        Sample(b"00018020046B3D12D6\r", tag(32, 0x6B3D12D6, CardCheck.NONE), noise_end=b"\n", digit=12)
    ],
    "rfideas": [
        line(
            b"00123",
            tag(32, 123, CardCheck.NONE)._replace(maybe_pin=True),
            "without a prefix the end of a longer number is a shorter one",
        ),
        line(b"#4002518;", CONVERTED._replace(check=CardCheck.NONE), prefix="#", suffix=";", bits=24),
    ],
    "wie232": [line(b"3D12D6", CONVERTED, "the end of a longer number is a shorter one")],
    "wg2rs232": [line(b"3d12d6", CONVERTED, "the end of a longer number is a shorter one")],
    "maxiprox": [
        line(b"0001234ABCDE08", tag(37, 0x1234ABCDE)),
        line(b"002006F623AEED", tag(26, 0x2F623AE)),
    ],
    "longrfid": [
        Sample(
            bytes.fromhex("AA 0F0800 0384 12DBFAE7D5 81 BB"),
            identifier(48, 900 << 38 | 0x12_DBFA_E7D5),
            digit=6,
        )
    ],
    "wl134": [
        Sample(b"\x02171A9253A34830010000000000\x07\xf8\x03", identifier(48, 900 << 38 | 250_000_023_921))
    ],
    "r200": [
        Sample(
            bytes.fromhex("BB 02 22 0011 C9 3400 30751FEB705C5904E3D50D70 3A76 EF 7E"),
            identifier(96, 0x30751FEB705C5904E3D50D70)._replace(signal_strength=-55.0),
            digit=10,
        )
    ],
    "uhfreader18": [
        Sample(
            bytes.fromhex("13 00 01 03 01 0C 49440000000000000A000334 A5FB"),
            identifier(96, 0x49440000000000000A000334),
            digit=8,
        ),
        Sample(
            with_crc(bytes.fromhex("11 00 EE 00 E2000017221101441890ABCD")),
            identifier(96, 0xE2000017221101441890ABCD),
        ),
        Sample(
            with_crc(bytes.fromhex("14 00 EE 00 01 0C E2000017221101441890ABCD 4B")),
            identifier(96, 0xE2000017221101441890ABCD),
            digit=8,
        ),
    ],
    "yhy": [
        Sample(bytes.fromhex("AABB 12 51 5EC0E07A04880400475135566110 2808 EB"), tag(32, 0x5EC0E07A)),
        Sample(
            bytes.fromhex("AABB 12 51 AA00C0E07AF0880400475135566110 2808 EB"), tag(32, 0xAAC0E07A), digit=6
        ),
    ],
    "sm130": [Sample(bytes.fromhex("FF00 06 82 02 D45A8D55 9A"), tag(32, 0xD45A8D55))],
    "idteck": [
        Sample(
            b"\x0212345678\x03\x09",
            RawCredential(32, 0x12345678, CardCheck.CHECKSUM, CredentialKind.ID, maybe_pin=True),
        ),
        Sample(b"\x021234\x03\x05", Key()),
        Sample(b"\x02123\x03\x31", Key()),
    ],
    "line": [
        line(
            b"CARD 26 2F657AE", RawCredential(26, 0x2F657AE), "the installer's pattern is for the whole line"
        ),
        line(
            b"CARD 26 2F657AE",
            RawCredential(26, 0x2F657AE),
            pattern=r".*CARD (?P<bits>\d+) (?P<raw>[0-9A-F]+)",
        ),
    ],
}
CASES = [(name, sample) for name in STANDALONE for sample in SAMPLES[name]]
AMBIGUOUS = [(name, sample) for name, sample in CASES if sample.ambiguous]
PLAIN = [(name, sample) for name, sample in CASES if not sample.ambiguous]
# Not in the list above by mistake: the forms for which nothing can be done, by name.
AMBIGUOUS_NAMES = ["bits", "elatec-bits", *["esphome"] * 4, "line", "rfideas", "twn4", "wg2rs232", "wie232"]

every_protocol = pytest.mark.parametrize("name", STANDALONE)
every_sample = pytest.mark.parametrize(("name", "sample"), CASES)

# Few, because they are many times few: `make fuzz` looks for longer.
few = settings(max_examples=10)

# Arbitrary bytes hardly ever look like a frame; pieces of frames do.
pieces = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"\x02",
            b"\x03",
            b"\n",
            b"\r",
            b"\r\n",
            b"26:",
            b"W",
            b"0",
            b"010063E9AE",
            b"25",
            b"x ",
            b"RF IDeas>",
        ]
    ),
    st.sampled_from([sample.frame for _, sample in CASES]),
    st.sampled_from([sample.frame[:-3] for _, sample in CASES]),
    st.sampled_from(
        [
            b"[D][wiegand:095]: received 26-bit tag: 4002518\r\n",
            b"[W][wiegand:097]: invalid parity\r\n",
            b"[I][TAG:029]: received tag 4002518\r\n",
        ]
    ),
    st.builds(lambda byte, times: byte * times, st.binary(min_size=1, max_size=2), st.integers(100, 400)),
)
streams = st.lists(pieces, max_size=8).map(b"".join)


def foreign_text(sample: Sample) -> st.SearchStrategy[bytes]:
    """Printable characters that are in no frame like this one."""
    foreign = set(range(0x21, 0x7F)) - set(sample.frame) - set(b"0123456789ABCDEFabcdef:W")
    return st.lists(st.sampled_from(sorted(foreign)), min_size=1, max_size=300).map(bytes)


def frames_of(wire: WireProtocol, chunks: Sequence[bytes]) -> list[ReaderEvent]:
    return [frame for chunk in chunks for frame in wire.receive_data(chunk, NOW)]


def after_frame(name: str, wire: WireProtocol, events: list[ReaderEvent]) -> list[ReaderEvent]:
    """The events of a frame, with those of the silence after it where only that ends it."""
    if name in ENDED_BY_SILENCE or name.startswith("gwiot"):  # noise may begin a frame that says it is longer
        return [*events, *wire.handle_timeout(math.inf)]
    return events


def waits_for_more(wire: WireProtocol) -> bool:
    """True while the silence timer runs."""
    timeout = wire.next_timeout()
    return timeout is not None and timeout < 0.0


def noise_bytes(frames: Sequence[ReaderEvent]) -> int:
    return sum(len(frame.raw) for frame in frames if isinstance(frame, Noise))


@every_sample
def test_a_frame_comes_out_with_its_last_byte_and_not_before(name: str, sample: Sample) -> None:
    wire = make(name, sample)
    last = len(sample.frame.rstrip(b"\n")) if sample.frame.endswith(b"\r\n") else len(sample.frame)

    assert wire.receive_data(sample.frame[: last - 1], NOW) == []
    assert waits_for_more(wire)
    assert after_frame(name, wire, wire.receive_data(sample.frame[last - 1 : last], NOW)) == [sample.word]
    assert not waits_for_more(wire)


@every_sample
def test_all_frames_that_waited_in_the_buffer_of_the_kernel_are_read(name: str, sample: Sample) -> None:
    wire, count = make(name, sample), KERNEL_BUFFER_BYTES // len(sample.frame)

    frames = [*wire.receive_data(sample.frame * count, NOW), *wire.handle_timeout(math.inf)]

    assert [frame for frame in frames if isinstance(frame, RawCredential | Key)] == [sample.word] * count


@every_sample
@few
@given(stream=streams)
def test_a_good_frame_is_found_after_any_noise_and_at_once(name: str, sample: Sample, stream: bytes) -> None:
    wire = make(name, sample)
    wire.receive_data(stream + sample.noise_end, NOW)

    frames = after_frame(name, wire, wire.receive_data(sample.frame, NOW))

    assert [frame for frame in frames if isinstance(frame, RawCredential | Key)][-1:] == [sample.word]


@pytest.mark.parametrize(("name", "sample"), PLAIN)
@few
@given(stream=streams, data=st.data())
def test_a_good_frame_is_found_right_behind_printable_noise_on_its_line(
    name: str, sample: Sample, stream: bytes, data: st.DataObject
) -> None:
    wire = make(name, sample)
    noise = stream + data.draw(foreign_text(sample))
    # After a configured prefix in the noise, the one of the frame may be a damaged digit.
    assume(not sample.options.get("prefix") or str(sample.options["prefix"]).encode() not in noise)
    before = wire.receive_data(noise, NOW)

    frames = after_frame(name, wire, wire.receive_data(sample.frame, NOW))

    *dropped, found = [frame for frame in frames if not isinstance(frame, Status)]
    assert found == sample.word
    assert any(isinstance(frame, Noise) for frame in [*before, *dropped]) or name in FREE_TEXT


@pytest.mark.parametrize(("name", "sample"), AMBIGUOUS)
@few
@given(data=st.data())
def test_a_frame_that_may_be_the_end_of_a_longer_one_is_noise(
    name: str, sample: Sample, data: st.DataObject
) -> None:
    wire = make(name, sample)

    frames = wire.receive_data(data.draw(foreign_text(sample)) + sample.frame, NOW)

    assert frames
    assert all(isinstance(frame, Noise) for frame in frames)


def test_the_forms_that_noise_on_their_line_costs_are_known_by_name() -> None:
    assert sorted(name for name, _ in AMBIGUOUS) == AMBIGUOUS_NAMES


STRAY_DIGITS = [
    (name, sample, b"%X" % digit)
    for name, sample in CASES
    # One more digit is a longer number, and nothing shows that it is none.
    if not (name in ("bits", "rfideas") and sample.ambiguous)
    for digit in range(16)
]


@pytest.mark.parametrize(("name", "sample", "digit"), STRAY_DIGITS)
def test_a_stray_digit_in_front_of_a_frame_makes_no_other_card_of_it(
    name: str, sample: Sample, digit: bytes
) -> None:
    wire, decoder = make(name, sample), Decoder(DEFAULT_FORMATS)

    frames = [*wire.receive_data(digit + sample.frame, NOW), *wire.handle_timeout(math.inf)]

    cards = [
        frame for frame in frames if isinstance(frame, RawCredential) and isinstance(decoder(frame), CardRead)
    ]
    assert cards in ([], [sample.word])


@every_sample
@few
@given(stream=streams)
def test_a_good_frame_is_found_after_any_noise_and_silence(name: str, sample: Sample, stream: bytes) -> None:
    wire = make(name, sample)
    wire.receive_data(stream, NOW)
    wire.handle_timeout(math.inf)

    assert after_frame(name, wire, wire.receive_data(sample.frame, NOW)) == [sample.word]


@every_protocol
@few
@given(stream=streams, data=st.data())
def test_the_same_frames_come_out_however_the_bytes_are_cut(
    name: str, stream: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    chunks = [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    whole, cut, by_byte = (make(name) for _ in range(3))

    expected = [*whole.receive_data(stream, NOW), *whole.handle_timeout(math.inf)]

    assert [*frames_of(cut, chunks), *cut.handle_timeout(math.inf)] == expected
    assert [
        *frames_of(by_byte, [bytes([byte]) for byte in stream]),
        *by_byte.handle_timeout(math.inf),
    ] == expected


@every_protocol
@few
@given(stream=streams)
def test_what_is_held_never_grows_past_its_cap(name: str, stream: bytes) -> None:
    wire = make(name)
    wire.receive_data(stream, NOW)
    partial = waits_for_more(wire)

    held = wire.handle_timeout(math.inf)

    assert partial or not held
    assert noise_bytes(held) <= HELD_BYTES_MAX
    assert not waits_for_more(wire)
    assert wire.handle_timeout(math.inf) == []


@every_protocol
@few
@given(stream=streams)
def test_a_reset_protocol_is_as_good_as_new(name: str, stream: bytes) -> None:
    wire, fresh = make(name), make(name)
    wire.receive_data(stream, NOW)

    wire.reset()

    assert not waits_for_more(wire)
    assert [*wire.receive_data(stream, NOW), *wire.handle_timeout(math.inf)] == [
        *fresh.receive_data(stream, NOW),
        *fresh.handle_timeout(math.inf),
    ]


@pytest.mark.parametrize("name", ["rdm6300", "id12la", "parallax"])
@few
@given(stream=streams)
def test_every_byte_of_a_framed_stream_is_a_card_or_noise(name: str, stream: bytes) -> None:
    wire = make(name)
    lengths = {len(sample.frame) for sample in SAMPLES[name]}

    frames = [*wire.receive_data(stream, NOW), *wire.handle_timeout(math.inf)]

    words = sum(isinstance(frame, RawCredential) for frame in frames)
    assert words * min(lengths) <= len(stream) - noise_bytes(frames) <= words * max(lengths)


@every_protocol
@pytest.mark.parametrize("byte", [b"\x02", b"\n", b"0", b"G", b"\xff"])
def test_a_flood_of_one_byte_is_few_events(name: str, byte: bytes) -> None:
    wire = make(name)

    frames = wire.receive_data(byte * 10_000, NOW)

    assert len(frames) <= 10_000 // LONGEST_RUN_BYTES


@pytest.mark.parametrize(
    ("name", "sample"), [case for case in CASES if isinstance(case[1].word, RawCredential)]
)
def test_a_corrupted_digit_never_gives_the_card(name: str, sample: Sample) -> None:
    wire = make(name, sample)
    corrupted = bytearray(sample.frame)
    corrupted[sample.digit] ^= 1

    frames = [*wire.receive_data(bytes(corrupted), NOW), *wire.handle_timeout(math.inf)]

    assert sample.word not in frames


@pytest.mark.parametrize(
    ("name", "sample"),
    [
        case
        for case in CASES
        if isinstance(case[1].word, RawCredential) and case[1].word.check is CardCheck.CHECKSUM
    ],
)
@few
@given(data=st.data())
def test_no_corrupted_digit_gets_past_a_checksum(name: str, sample: Sample, data: st.DataObject) -> None:
    wire = make(name, sample)
    place = data.draw(st.integers(1, min(10, len(sample.frame) - 1)))
    good = sample.frame[place : place + 1]
    # A hex digit says the same in either case.
    bad = data.draw(st.binary(min_size=1, max_size=1).filter(lambda byte: good not in (byte, byte.upper())))
    corrupted = sample.frame[:place] + bad + sample.frame[place + 1 :]

    frames = [*wire.receive_data(corrupted, NOW), *wire.handle_timeout(math.inf)]

    assert frames
    assert all(isinstance(frame, Noise) for frame in frames)


def test_a_good_frame_that_begins_inside_a_bad_one_is_found() -> None:
    wire = make("rdm6300")
    good = b"\x02010063E9AE25\x03"

    frames = wire.receive_data(b"\x02010063E9AE" + good, NOW)

    assert frames == [Noise(NoiseReason.TRUNCATED, b"\x02010063E9AE"), tag(40, 0x010063E9AE)]


def test_each_broken_frame_counts_as_one() -> None:
    wire = make("rdm6300")
    broken = b"\x02010063E9AE24\x03"

    assert wire.receive_data(broken * 3, NOW) == [Noise(NoiseReason.CHECKSUM, broken)] * 3


def test_a_raw_checksum_of_the_wrong_value_is_noise_up_to_the_next_start() -> None:
    wire = make("rdm6300")

    frames = [*wire.receive_data(b"\x02010063E9AE\x02\x03", NOW), *wire.handle_timeout(math.inf)]

    assert frames == [Noise(NoiseReason.CHECKSUM, b"\x02010063E9AE"), Noise(NoiseReason.SYNTAX, b"\x02\x03")]


def test_a_null_tag_without_checksum_is_noise() -> None:
    wire = make("parallax")

    assert wire.receive_data(b"\nFFFFFFFFFF\r", NOW) == [Noise(NoiseReason.NULL, b"\nFFFFFFFFFF\r")]


def test_a_frame_taken_for_a_part_of_a_longer_one_is_found_when_the_line_falls_silent() -> None:
    wire = make("gwiot7941w")
    good = bytes.fromhex("CDDC 00 81 04 6B3D12D6 17")
    wire.receive_data(bytes.fromhex("CDDC 00 81 0A") + good, NOW)

    frames = wire.handle_timeout(math.inf)

    assert frames == [Noise(NoiseReason.TRUNCATED, bytes.fromhex("CDDC00810A")), tag(32, 0x6B3D12D6)]


@pytest.mark.parametrize("name", ["s4a", "idteck", "yaawl", "monkeyboard", "esphome"])
def test_noise_that_may_hold_a_pin_is_counted_and_not_passed_on(name: str) -> None:
    wire = make(name)

    frames = [*wire.receive_data(b"\x0212\x0234\r\n\x021234\x03\x00", NOW), *wire.handle_timeout(math.inf)]

    assert frames
    assert all(frame == Noise(frame.reason, b"") for frame in frames if isinstance(frame, Noise))


@every_protocol
def test_every_protocol_says_whose_it_is_and_how_to_be_spoken_to(name: str) -> None:
    protocol = STANDALONE[name]

    assert protocol.__doc__
    assert all(option.problem_with(option.default) is None for option in protocol.options.values())


@every_protocol
def test_half_a_frame_ends_only_after_a_silence_longer_than_a_usb_adapters(name: str) -> None:
    wire = make(name)
    wire.receive_data(SAMPLES[name][0].frame[:-2], NOW)
    timeout = wire.next_timeout()
    assert timeout is not None

    early = wire.handle_timeout(NOW + 0.016)
    late = wire.handle_timeout(timeout)

    assert early == []
    assert [frame for frame in late if isinstance(frame, Noise)]
    assert not waits_for_more(wire)


@every_protocol
def test_every_received_byte_starts_the_silence_again(name: str) -> None:
    wire = make(name)
    frame = SAMPLES[name][0].frame
    wire.receive_data(frame[:1], NOW)
    first = wire.next_timeout()

    wire.receive_data(frame[1:2], NOW + 0.015)
    second = wire.next_timeout()

    assert first is not None
    assert second == pytest.approx(first + 0.015)


@every_protocol
def test_a_protocol_that_is_not_polled_sends_nothing_and_has_no_timer(name: str) -> None:
    wire = make(name)

    assert (wire.data_to_send(0.0) != b"") == STANDALONE[name].polled
    assert (wire.next_timeout() is not None) == STANDALONE[name].polled


@pytest.mark.parametrize("name", [name for name in STANDALONE if STANDALONE[name].polled])
def test_a_polled_protocol_sends_a_request_at_its_interval_and_none_for_a_pause(name: str) -> None:
    wire = make(name)
    times: list[float] = []
    requests: list[bytes] = []
    now = 0.0
    for _ in range(5):
        requests.append(wire.data_to_send(now))
        times.append(now)
        assert wire.data_to_send(now + 0.04) == b""
        now = wire.next_timeout() or 0.0
        assert wire.handle_timeout(now) == []

    assert all(requests)
    assert all(after - before >= 0.05 for before, after in pairwise(times))
    assert wire.data_to_send(now + 10.0)
    assert wire.data_to_send(now + 10.01) == b""
    wire.reset()
    assert wire.data_to_send(now + 10.02) == requests[0]


@every_protocol
def test_no_protocol_shows_what_it_holds(name: str) -> None:
    wire = make(name)

    frames = [
        *wire.receive_data(b"\x020123456789", NOW),
        *wire.receive_data(b"\n0123456789", NOW),
        *wire.handle_timeout(math.inf),
    ]

    assert "1234" not in repr(wire) + repr(frames)
