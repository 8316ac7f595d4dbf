"""Every frame and value of tests/data/osdp-vectors.csv."""

from __future__ import annotations

import re

import pytest

from agent.keys.aes import Aes128
from agent.readers.events import (
    Condition,
    ConditionChange,
    CredentialKind,
    Key,
    Noise,
    NoiseReason,
    RawCredential,
    ReaderEvent,
)
from agent.readers.protocols.osdp.codes import Command, Reply
from agent.readers.protocols.osdp.frame import (
    SIGNED,
    Frame,
    FrameBuffer,
    checksum,
    crc,
    finished,
    unsigned_command,
)
from agent.readers.protocols.osdp.outputs import (
    Colour,
    beep,
    key_record,
    line_settings,
    steady_led,
    timed_led,
)
from agent.readers.protocols.osdp.reports import events_of, identity_of, knows_secure_channel, settings_of
from agent.swipe import CardCheck
from tests.support.osdp_vectors import Vector, vectors

VALUES = [each for each in vectors() if each.direction == "value"]
COMMANDS = [each for each in vectors() if each.direction == "cp>pd"]
REPLIES = [each for each in vectors() if each.direction in ("pd>cp", "pd>lost") and each.data]
DAMAGED = "check characters are wrong"
WHOLE = [each for each in REPLIES if DAMAGED not in each.meaning]
# Not built: damaged commands, for libosdp's reader.
BUILT = [each for each in COMMANDS if not re.search("wrong|one byte more|noise", each.meaning)]
RECEIVED = [each for each in vectors() if each.direction == "rx"]


def name_of(vector: Vector) -> str:
    return vector.id


def raw(bits: int, value: int, form: CredentialKind = CredentialKind.WIEGAND) -> RawCredential:
    return RawCredential(bits, value, CardCheck.CHECKSUM, form)


def meant(vector: Vector, name: str) -> str:
    found = re.search(rf"\b{name}=(\S+)", vector.meaning)
    assert found
    return found[1]


@pytest.mark.parametrize("vector", [each for each in VALUES if "CRC-16" in each.meaning], ids=name_of)
def test_crc(vector: Vector) -> None:
    found = re.search(r"CRC-16[^=]*= (\w{4})", vector.meaning)
    assert found

    assert crc(vector.data) == bytes.fromhex(found[1])[::-1]


@pytest.mark.parametrize("vector", [each for each in VALUES if "checksum = " in each.meaning], ids=name_of)
def test_checksum(vector: Vector) -> None:
    assert checksum(vector.data).hex() == vector.meaning.partition("checksum = ")[2][:2]


@pytest.mark.parametrize("vector", [each for each in VALUES if each.id.startswith("masterkey")], ids=name_of)
def test_aes_of_one_block(vector: Vector) -> None:
    found = re.search(r"AES\((\w+), cUID=(\w+)", vector.meaning)
    assert found
    key, client = (bytes.fromhex(text) for text in found.groups())

    assert Aes128(key).encrypt(client + bytes(255 - byte for byte in client)) == vector.data


def rebuilt(vector: Vector) -> bytes:
    """The command from its parts, which a MARK byte precedes or not."""
    frame = vector.data.removeprefix(b"\xff")
    control, begin = frame[4], 5
    with_crc = bool(control & 4)
    security = b""
    if control & 8:
        security = frame[6 : 5 + frame[5]]
        begin += frame[5]
    end = len(frame) - (2 if with_crc else 1)
    mac_bytes = 4 if security and security[0] in SIGNED else 0
    code, data, mac = frame[begin], frame[begin + 1 : end - mac_bytes], frame[end - mac_bytes : end]

    built = unsigned_command(frame[1], control & 3, code, data, security=security, with_crc=with_crc)
    return finished(built, mac).removeprefix(b"\xff")


def test_commands_are_built_as_they_were_sent() -> None:
    """The MACs are those of test_osdp_sessions.py."""
    assert len(BUILT) > 280
    assert [each.id for each in BUILT if rebuilt(each) != each.data.removeprefix(b"\xff")] == []


def is_one_frame(vector: Vector) -> bool:
    """However it is cut: with the number and the address that it is said to have."""
    whole, by_byte = FrameBuffer(), FrameBuffer()
    frames = whole.feed(vector.data)
    assert [each for byte in vector.data for each in by_byte.feed(bytes([byte]))] == frames
    found = re.search(r"seq=(\d)(?: addr=(\w\w))?", vector.meaning)
    number, address = found.groups() if found else (None, None)
    return (
        len(frames) == 1
        and number in (None, str(frames[0].number))
        and address in (None, f"{frames[0].address:02x}")
    )


def test_each_reply_is_one_frame() -> None:
    assert len(WHOLE) > 260
    assert [each.id for each in WHOLE if not is_one_frame(each)] == []


def test_damaged_replies_are_no_frame() -> None:
    damaged = [each for each in REPLIES if DAMAGED in each.meaning]

    assert damaged
    assert [frame for each in damaged for frame in FrameBuffer().feed(each.data)] == []


def content_of(vector: Vector) -> bytes:
    """The decrypted data of a reply."""
    if "plain=" in vector.meaning:
        return bytes.fromhex(meant(vector, "plain"))
    (frame,) = FrameBuffer().feed(vector.data)
    return frame.data


@pytest.mark.parametrize("vector", [each for each in WHOLE if each.meaning.startswith("RAW ")], ids=name_of)
def test_a_card_is_what_the_reader_was_shown(vector: Vector) -> None:
    bits, card = int(meant(vector, "bits")), meant(vector, "data")
    form = CredentialKind.WIEGAND if meant(vector, "format") == "1" else CredentialKind.ID

    events = events_of(Reply.RAW, content_of(vector))

    assert events == [raw(bits, int(f"{int(card, 16):0{len(card) * 4}b}"[:bits], 2), form)]


@pytest.mark.parametrize(
    "vector", [each for each in WHOLE if each.meaning.startswith("KEYPAD ")], ids=name_of
)
def test_keys_are_counted(vector: Vector) -> None:
    assert events_of(Reply.KEYPAD, content_of(vector)) == [Key()] * int(meant(vector, "count"))


@pytest.mark.parametrize(
    "vector", [each for each in WHOLE if each.meaning.startswith("LSTATR ")], ids=name_of
)
def test_tamper_and_power(vector: Vector) -> None:
    assert events_of(Reply.LSTATR, content_of(vector)) == [
        ConditionChange(Condition.TAMPER, active=meant(vector, "tamper") == "1"),
        ConditionChange(Condition.POWER, active=meant(vector, "power") == "1"),
    ]


@pytest.mark.parametrize("vector", [each for each in WHOLE if each.meaning.startswith("PDID ")], ids=name_of)
def test_identity(vector: Vector) -> None:
    identity = identity_of(content_of(vector))

    assert identity is not None
    assert identity.vendor.lower() == meant(vector, "vendor")
    assert bytes.fromhex(identity.serial)[::-1].hex() == meant(vector, r"serial\(LE\)")
    assert identity.firmware == meant(vector, "firmware")


@pytest.mark.parametrize("vector", [each for each in WHOLE if each.meaning.startswith("PDCAP ")], ids=name_of)
def test_capabilities(vector: Vector) -> None:
    assert knows_secure_channel(content_of(vector)) is ("9:1" in vector.meaning)


@pytest.mark.parametrize("vector", [each for each in WHOLE if each.meaning.startswith("COM ")], ids=name_of)
def test_line_settings(vector: Vector) -> None:
    settings = settings_of(content_of(vector))

    assert settings == (int(meant(vector, "address"), 16), int(meant(vector, "baud")))


@pytest.mark.parametrize(
    ("code", "data", "name"),
    [
        (Command.LED, steady_led(Colour.RED), "LED 0000000000000000000101000101"),
        (Command.COMSET, line_settings(8, 38400), "COMSET to 7F address=08 baud=38400"),
        (Command.KEYSET, key_record(bytes(16)), "KEYSET in plain"),
    ],
)
def test_the_data_of_a_command(code: int, data: bytes, name: str) -> None:
    vector = next(each for each in COMMANDS if each.meaning.startswith(name))

    assert bytes([code]) + data in vector.data


def test_green_and_the_beep_end_by_themselves() -> None:
    assert timed_led(Colour.GREEN, 2000).hex() == "0000020100020214000000000000"
    assert beep(100).hex() == "0002010001"


# What is received, by the vector's name after `rx-A-`: the numbers of the replies, and their events.
CARD = raw(26, 0x0084_6073)
EXPECTED: dict[str, tuple[list[int], list[ReaderEvent]]] = {
    "echo": ([2], []),
    "mark": ([2], []),
    "marks": ([2], []),
    "noise": ([2], []),
    "false-som": ([2], []),
    "false-som-plausible": ([2], []),
    "two": ([2, 3], [CARD]),
    "cut": ([], []),
    "cut-then-whole": ([3], [CARD]),
    "ff-address": ([0], []),
    "other-address": ([2, 2], []),
    "stale": ([1], []),
    "seq0-nak": ([0], []),
    "nak-details": ([2], []),
    "unknown-reply": ([2], []),
    "ack-with-data": ([2], []),
    "raw-short": ([2], [Noise(NoiseReason.LENGTH)]),
    "raw-long": ([2], [Noise(NoiseReason.LENGTH)]),
    "keypad-long": ([2], [Noise(NoiseReason.LENGTH)]),
    "fmt": ([2], [raw(32, 0x31323334, CredentialKind.IDENTIFIER)]),
    "fmt-2-more": ([2], [raw(32, 0x31323334, CredentialKind.IDENTIFIER)]),
    "checksum": ([2], [CARD]),
    "busy": ([0], []),
}


@pytest.mark.parametrize("vector", RECEIVED, ids=name_of)
def test_replies_are_found_in_what_is_received(vector: Vector) -> None:
    buffer = FrameBuffer()

    frames: list[Frame] = [*buffer.feed(vector.data), *buffer.flush()]

    events = [event for frame in frames for event in events_of(frame.code, frame.data)]
    assert ([frame.number for frame in frames], events) == EXPECTED[vector.id.removeprefix("rx-A-")]
    assert len(buffer) == 0
