"""Simulated badge readers for the demo: pseudo-terminals that send frames of real readers."""

from __future__ import annotations

import contextlib
import os
import time
import tty
from dataclasses import dataclass

from agent.readers.cards.decoder import encode

_BAUD = 9600
_SECONDS_PER_BYTE = 10 / _BAUD  # a start bit, eight data bits, a stop bit

_FACILITY_CODE = 123
_FIRST_CARD = 11_000
_FIRST_TAG = 0x01_0063_E000
_PEOPLE = 5


@dataclass(frozen=True, slots=True)
class DoorReader:
    """One reader of the demo's configuration."""

    id: str
    zone_id: str
    direction: str
    protocol: str


LOBBY = DoorReader("RDR-101", "ZONE-LOBBY-1", "ENTRY", "rdm6300")
OFFICE = DoorReader("RDR-201", "ZONE-OFFICE-2A", "EXIT", "bits")
READERS = (LOBBY, OFFICE)


@dataclass(frozen=True, slots=True)
class Card:
    """A card at a reader: the frame sent, and the row members expected for it."""

    reader: DoorReader
    frame: bytes
    badge_id: str
    user_id: str


def card(number: int) -> Card:
    """Card `number` (0 and up), all different; readers alternate."""
    user_id = f"USR-{number % _PEOPLE + 1:03d}"
    if number % len(READERS) == 0:
        tag = _FIRST_TAG + number
        return Card(LOBBY, rdm6300_frame(tag), f"40:{tag:010X}", user_id)
    card_number = _FIRST_CARD + number
    word = encode("H10301", _FACILITY_CODE, card_number)
    return Card(OFFICE, b"W26:%07X\n" % word, f"{_FACILITY_CODE}-{card_number}", user_id)


def rdm6300_frame(tag: int) -> bytes:
    """A tag of 40 bits as an RDM6300 sends it: STX, the tag in hex, its bytes XORed, ETX."""
    checksum = 0
    for byte in tag.to_bytes(5, "big"):
        checksum ^= byte
    return b"\x02%010X%02X\x03" % (tag, checksum)


class Cable:
    """A pseudo-terminal: the agent opens `device`, send() writes as the reader."""

    def __init__(self) -> None:
        self._reader_end, self._agent_end = os.openpty()
        # Raw mode: before the agent configures its end, the terminal would echo the reader's data.
        tty.setraw(self._agent_end)
        self.device = os.ttyname(self._agent_end)

    def send(self, frame: bytes) -> int:
        """Send a frame at 9600 baud; returns CLOCK_MONOTONIC in ns after its last byte."""
        for byte in frame:
            time.sleep(_SECONDS_PER_BYTE)
            os.write(self._reader_end, bytes((byte,)))
        return time.monotonic_ns()

    def close(self) -> None:
        """Close both ends, as if unplugged."""
        for end in (self._agent_end, self._reader_end):
            with contextlib.suppress(OSError):
                os.close(end)
