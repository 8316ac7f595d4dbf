"""Several readers on one port: a board that names the reader in each line."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.readers.session import PortSession, PreviousRun
from agent.readers.shared_port import by_port
from agent.settings import Keypad, ReaderSettings
from agent.swipe import LastRead
from tests.support.agent_process import PtyReader
from tests.support.fd_store import MemoryFdStore
from tests.support.stand_in_sink import MemorySink
from tests.support.swipes import DrivenClock, wait_until

INSIDE = b"INSIDE:23,192,251,159,179\r\n"
OUTSIDE = b"OUTSIDE:4,41,46,90,89\r\n"
CARD = b"cardReader WG HEX = 3D12D6, DECIMAL = 4002518, Type W26\r\n"
PIN = b"keypadReader WG HEX = 4D2, DECIMAL = 1234, Type W26\r\n"


class SharedPortRig:
    """Two readers that a board serves on one line."""

    def __init__(self, line: PtyReader, settings: list[ReaderSettings], previous: PreviousRun) -> None:
        self.sink, self.line = MemorySink(), line
        self.session = PortSession(
            settings,
            sink=self.sink,
            clock=DrivenClock(),
            changed=lambda: None,
            fd_store=MemoryFdStore(),
            previous=previous,
        )
        self._thread = threading.Thread(target=self.session.run, args=[lambda _: None])
        self._thread.start()
        wait_until(lambda: self.states() == {"open"}, what="an open port")

    def states(self) -> set[str]:
        return {reader.counts.state for reader in self.session.readers}

    def swipes(self, count: int) -> list[tuple[str, str]]:
        """The readers and cards of the first `count` swipes."""
        wait_until(lambda: len(self.sink.kept) >= count, what=f"{count} swipes")
        return [(swipe.reader_id, swipe.card.raw) for swipe in self.sink.kept]

    def close(self) -> None:
        self.session.stop()
        self._thread.join(5.0)
        assert not self._thread.is_alive()


def reader(name: str, device: Path, keypad: Keypad = "none") -> ReaderSettings:
    options = {"template": "{reader}:{decimal}", "separators": ",", "checksum": "xor", "select": name}
    return ReaderSettings(id=name, zone_id="Z", port=device, protocol="line", keypad=keypad, options=options)


def board_reader(name: str, device: Path, keypad: Keypad) -> ReaderSettings:
    return ReaderSettings(
        id=name, zone_id="Z", port=device, protocol="monkeyboard", keypad=keypad, options={"select": name}
    )


@pytest.fixture
def inside_and_outside(line: PtyReader) -> Iterator[SharedPortRig]:
    # A card that was in the field of one reader when the previous process ended says nothing of the other.
    previous = PreviousRun(0, {"INSIDE": [LastRead(32, "0429", 0)]})
    rig = SharedPortRig(line, [reader(name, line.device) for name in ("INSIDE", "OUTSIDE")], previous)
    yield rig
    rig.close()


def test_each_line_is_a_swipe_of_the_reader_that_it_names(inside_and_outside: SharedPortRig) -> None:
    for text in (INSIDE, OUTSIDE):
        inside_and_outside.line.write(text)

    assert inside_and_outside.swipes(2) == [("INSIDE", "17C0FB9F"), ("OUTSIDE", "04292E5A")]
    assert not any(reader.counts.noise for reader in inside_and_outside.session.readers)


def test_the_same_card_at_both_readers_is_a_swipe_of_each(inside_and_outside: SharedPortRig) -> None:
    inside_and_outside.line.write(INSIDE + INSIDE.replace(b"INSIDE", b"OUTSIDE"))

    assert inside_and_outside.swipes(2) == [("INSIDE", "17C0FB9F"), ("OUTSIDE", "17C0FB9F")]


def test_a_lost_port_is_lost_to_each_of_its_readers(inside_and_outside: SharedPortRig) -> None:
    inside_and_outside.line.unplug()

    wait_until(lambda: inside_and_outside.states() == {"lost"}, what="a lost port")


def test_a_keypad_beside_a_card_reader_sends_no_pin(line: PtyReader) -> None:
    settings = [
        board_reader("cardReader", line.device, "none"),
        board_reader("keypadReader", line.device, "pin26"),
    ]
    rig = SharedPortRig(line, settings, PreviousRun())

    rig.line.write(PIN + CARD)

    assert rig.swipes(1) == [("cardReader", "3D12D6")]
    assert [reader.counts.keys_discarded for reader in rig.session.readers] == [0, 1]
    rig.close()


def test_readers_are_grouped_by_their_port(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    settings = [reader("INSIDE", first), reader("DOOR", second), reader("OUTSIDE", first)]

    assert [[each.id for each in group] for group in by_port(settings)] == [["INSIDE", "OUTSIDE"], ["DOOR"]]
