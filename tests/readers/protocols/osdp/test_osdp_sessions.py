"""Recorded sessions with libosdp's reader: the same keys and random numbers give the same frames."""

from __future__ import annotations

import re

import pytest

from agent.readers.protocols.osdp.frame import FrameBuffer
from agent.readers.protocols.osdp.secure_channel import DEFAULT_KEY, Handshake, SecureChannel
from tests.support.osdp_device import OsdpDevice
from tests.support.osdp_vectors import Recording, recordings, vectors

SECURE = [each for each in recordings() if any("CHLNG" in frame.meaning for frame in each.frames)]
CHLNG, SCRYPT = 0x76, 0x77
EVENTS = ("RAW", "KEYPAD", "LSTATR", "ISTATR", "OSTATR", "RSTATR")


def name_of(recording: Recording) -> str:
    return recording.name


class Panel:
    """Builds each recorded command, and opens each recorded reply."""

    def __init__(self, keys: dict[str, bytes]) -> None:
        self._keys = keys
        self._handshake: Handshake | None = None
        self._channel: SecureChannel | None = None
        self.opened: list[bytes | None] = []
        self.accepted: list[bool] = []

    def command(self, sent: bytes, plain: bytes | None) -> bytes | None:
        """The frame with the content of this one; None for one that is not of a session."""
        frame = sent.removeprefix(b"\xff")
        address, number, with_crc = frame[1], frame[4] & 3, bool(frame[4] & 4)
        if not frame[4] & 8:
            return None
        kind, code = frame[6], frame[5 + frame[5]]
        if kind == 0x11:
            self._channel = None
            self._handshake = Handshake(self._key(frame[7]), frame[9:17])
            built = self._handshake.challenge(address, with_crc=with_crc)
            # The number is 0 in the agent's handshakes; one recorded session has another one.
            return built if number == 0 else None
        if kind == 0x13:
            assert self._handshake is not None
            return self._handshake.response(address, number, with_crc=with_crc)
        if self._channel is None:
            return None
        return self._channel.seal(address, number, code, plain or b"", with_crc=with_crc)

    def reply(self, received: bytes) -> None:
        (frame,) = FrameBuffer().feed(received)
        if self._channel is not None:
            self.opened.append(self._channel.open(frame) if frame.security else None)
        elif self._handshake is not None and frame.security_type == 0x12:
            self.accepted.append(self._handshake.accepts(frame))
        elif self._handshake is not None and frame.security_type == 0x14:
            self._channel = self._handshake.finish(frame)
            self.accepted.append(self._channel is not None)

    def end(self) -> None:
        self._channel = None

    def _key(self, kind: int) -> bytes:
        if kind == 0:
            return DEFAULT_KEY
        return next(self._keys[name] for name in ("scbk", "new_scbk", "cp_scbk") if name in self._keys)


@pytest.mark.parametrize("recording", SECURE, ids=name_of)
def test_a_session_has_the_recorded_frames(recording: Recording) -> None:
    panel, before, asked = Panel(recording.keys), b"", b""
    built = 0
    for frame in recording.frames:
        if frame.direction == "cp>pd":
            is_first = frame.data.lstrip(b"\xff")[1] == recording.addresses[0]
            asked = frame.data if is_first else b""
            if not is_first or frame.data == before or "wrong" in frame.meaning:
                continue
            before = frame.data
            command = panel.command(frame.data, frame.plain)
            if (
                command is not None
                and "old session" not in frame.meaning
                and "forgotten" not in frame.meaning
            ):
                assert command.lstrip(b"\xff") == frame.data.lstrip(b"\xff"), frame.meaning
                built += 1
        elif frame.direction == "pd>cp" and frame.data and asked:
            count = len(panel.opened)
            panel.reply(frame.data)
            if len(panel.opened) > count:
                if frame.meaning.startswith("NAK code=6") or panel.opened[-1] is None:
                    panel.end()
                else:
                    assert panel.opened[-1] == (frame.plain or b""), frame.meaning
    assert built >= 3
    assert panel.accepted
    assert all(panel.accepted) or recording.name.startswith(("wrongkey", "keyset"))


@pytest.mark.parametrize("name", ["cp-sc-checksum", "cp-sc-ccrypt-says-scbkd"])
def test_replies_that_libosdp_accepts_are_accepted(name: str) -> None:
    """Checksums, and a wrong kind of key in CCRYPT: some readers have them."""
    panel = Panel({"scbk": bytes.fromhex("4b8f1d02c7739ae6055e21b4d8f06c93")})
    for vector in vectors():
        if vector.id.rpartition("-")[0] == name:
            if vector.direction == "cp>pd":
                panel.command(vector.data, b"")
            else:
                panel.reply(vector.data)

    assert panel.accepted == [True, True]
    assert panel.opened == [bytes.fromhex("00011a0021181cc0"), bytes.fromhex("000431323334")]


# The tests' own reader is compared where libosdp's reader does what the standard has.
ALIKE = ("plain", "nomark", "sc-", "scsum", "sequence", "wrongkey", "keyset", "rekey", "restart")
# Not compared: another reader's words for what the standard leaves open, or what only one of them does.
OWN_WAYS = re.compile(
    r"wrong|NAK code=[239]|OSTATR|ISTATR|TEXT|OUT |seq=\d: the reply that was lost|old session|CRC|damaged"
)


@pytest.mark.parametrize(
    "recording", [one for one in recordings() if one.name.startswith(ALIKE)], ids=name_of
)
def test_the_tests_own_reader_answers_as_libosdps(recording: Recording) -> None:
    key = None if "scbk_d" in recording.keys else recording.keys.get("scbk") or recording.keys.get("pd_scbk")
    device = OsdpDevice(recording.addresses[0], key=key)
    device.with_crc = True  # as libosdp's, also for a command with a checksum
    compared = 0
    for number, frame in enumerate(recording.frames):
        if "PD restarts" in frame.meaning:
            device.restart()
        expected = next((one for one in recording.frames[number + 1 :] if one.direction != "note"), None)
        if frame.direction != "cp>pd" or expected is None:
            continue
        if OWN_WAYS.search(frame.meaning + expected.meaning):
            break
        if not expected.data:
            continue
        (reply,) = FrameBuffer().feed(expected.data)
        if expected.meaning.startswith(EVENTS) and frame.meaning.startswith("POLL"):
            device.events.append((reply.code, expected.plain if expected.plain is not None else reply.data))
        if frame.meaning.startswith("CHLNG"):
            device.random = reply.data[8:16]
        assert device.reply(frame.data) == expected.data, (frame.meaning, expected.meaning)
        compared += 1
    assert compared >= 3
