"""Settings of a reader that only a running session applies, on a real pseudo-terminal."""

from __future__ import annotations

import dataclasses
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.readers.events import NoiseReason
from tests.readers.test_session import ReaderRig
from tests.support.agent_process import bits_line, h10301

_CONTROL_FLAGS = 2


@pytest.fixture
def open_door(tmp_path: Path) -> Iterator[Callable[..., ReaderRig]]:
    doors: list[ReaderRig] = []

    def start(**settings: object) -> ReaderRig:
        door = ReaderRig(tmp_path, "bits")
        doors.append(door)
        door.reader = dataclasses.replace(door.reader, **settings)  # type: ignore[arg-type] # those of the test
        door.session = door.new_session()
        door.start()
        return door

    yield start
    for door in doors:
        door.close()


@pytest.mark.parametrize("stop_bits", [1, 2])
def test_the_configured_stop_bits_are_set_at_the_port(
    open_door: Callable[..., ReaderRig], stop_bits: int
) -> None:
    door = open_door(stop_bits=stop_bits)

    with door.line.device.open("rb", buffering=0) as port:
        flags = termios.tcgetattr(port.fileno())[_CONTROL_FLAGS]

    assert bool(flags & termios.CSTOPB) == (stop_bits == 2)


@pytest.mark.parametrize(("unknown_lengths", "cards"), [(None, 0), ("reject", 0), ("raw", 1)])
def test_a_word_of_a_length_without_format_is_noise_or_a_card(
    open_door: Callable[..., ReaderRig], unknown_lengths: str | None, cards: int
) -> None:
    door = open_door(unknown_lengths=unknown_lengths)

    door.line.write(bits_line(36, 5))

    door.wait_until(lambda: len(door.kept) + door.session.readers[0].counts.noise.total() == 1, "the word")
    assert len(door.kept) == cards
    assert door.session.readers[0].counts.noise[NoiseReason.LENGTH] == 1 - cards


def test_a_pin_of_the_configured_number_of_digits_is_a_key(open_door: Callable[..., ReaderRig]) -> None:
    door = open_door(keypad="pin26", pin_digits=7)

    door.line.write(bits_line(26, h10301(9_999_999 >> 16, 9_999_999 & 0xFFFF)))

    door.wait_until(lambda: door.session.readers[0].counts.keys_discarded == 1, "the key")
    assert door.kept == []
