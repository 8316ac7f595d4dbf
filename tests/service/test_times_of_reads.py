"""When a swipe happened whose bytes waited: a real process, a real line, real suspensions."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.support.agent_process import AgentProcess, PtyReader, bits_line, h10301, reader_table
from tests.support.needs import SYSTEMD_PYTHON, needs
from tests.support.outbox_rig import looked_up
from tests.support.swipes import wait_until

TAG = 0x0100_63E9_AE
# What systemd passes to a service whose port it has stored; the reader's end stays open in the test.
HELD = """
import os
os.dup2(os.open({device!r}, os.O_RDWR | os.O_NOCTTY), 3)
os.dup2(os.open({repeats!r}, os.O_RDWR | os.O_CREAT), 4)
os.environ.update(LISTEN_FDS="2", LISTEN_PID=str(os.getpid()), LISTEN_FDNAMES="RDR-101:last repeats")
"""


class Door:
    """An agent whose pipe cannot be reached, and the rows it has stored."""

    def __init__(
        self, directory: Path, line: PtyReader, key: Path, *, protocol: str, held: bool, hold_off_ms: int
    ) -> None:
        self.line = line
        self.agent = AgentProcess(
            directory,
            url="http://127.0.0.1:9",
            private_key_file=key,
            readers=[reader_table(line.device, protocol=protocol, more=f"hold_off_ms = {hold_off_ms}")],
            but_first=HELD.format(device=str(line.device), repeats=str(directory / "repeats"))
            if held
            else "",
        )

    def rows(self) -> list[dict[str, Any]]:
        found = looked_up(self.agent.state_dir, "SELECT row FROM swipes ORDER BY n")
        return [json.loads(row) for (row,) in found]

    def wait_for(self, count: int) -> list[dict[str, Any]]:
        wait_until(lambda: len(self.rows()) >= count, what=f"{count} stored swipes")
        return self.rows()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        os.kill(self.agent.pid, signal.SIGSTOP)
        # On a busy machine a thread may still read what arrives before it stops.
        tasks = list(Path(f"/proc/{self.agent.pid}/task").glob("*/stat"))
        wait_until(
            lambda: all(task.read_text().rpartition(") ")[2].startswith("T") for task in tasks),
            what="every thread is stopped",
        )
        try:
            yield
        finally:
            os.kill(self.agent.pid, signal.SIGCONT)


class NewDoor(Protocol):
    def __call__(
        self, protocol: str = "rdm6300", *, held: bool = False, hold_off_ms: int = 1_000
    ) -> Door: ...


@pytest.fixture
def doors(tmp_path: Path, line: PtyReader, rsa_key_file: Path) -> NewDoor:
    def new(protocol: str = "rdm6300", *, held: bool = False, hold_off_ms: int = 1_000) -> Door:
        return Door(
            tmp_path / "door", line, rsa_key_file, protocol=protocol, held=held, hold_off_ms=hold_off_ms
        )

    return new


def at_s(row: dict[str, Any]) -> float:
    return datetime.fromisoformat(row["event_timestamp"]).timestamp()


def assert_within(row: dict[str, Any], happened_s: float) -> None:
    """The row says honestly how unsure its time is, and is right within that."""
    assert row["clock"] == "estimated"
    assert abs(at_s(row) - happened_s) <= row["time_uncertainty_ms"] / 1e3 + 0.05


def test_a_swipe_that_is_read_as_it_comes_is_right_to_the_quarter_of_a_second(doors: NewDoor) -> None:
    door = doors()
    with door.agent:
        apart_s = []
        for count in range(1, 6):  # the machine may be too busy for one of them
            time.sleep(0.3)
            happened_s = time.time()
            door.line.present(count)
            row = door.wait_for(count)[-1]
            if row["clock"] == "synced":
                apart_s.append(abs(at_s(row) - happened_s))
                assert "time_uncertainty_ms" not in row

    assert min(apart_s) < 0.25


def test_a_swipe_during_a_suspension_is_estimated_within_it(doors: NewDoor) -> None:
    door = doors()
    with door.agent:
        time.sleep(0.5)  # it waits for the reader
        with door.suspended():
            time.sleep(0.5)
            happened_s = time.time()
            door.line.present(TAG)
            time.sleep(2.5)
        (row,) = door.wait_for(1)

    assert_within(row, happened_s)
    assert row["time_uncertainty_ms"] >= 1_000
    assert datetime.fromisoformat(row["recorded_at"]).timestamp() - happened_s >= 2.4


def test_a_second_presentation_during_a_suspension_is_a_swipe_of_most_readers(
    doors: NewDoor,
) -> None:
    door = doors(protocol="bits")
    with door.agent:
        time.sleep(0.5)
        with door.suspended():
            first_s = time.time()
            door.line.write(bits_line(26, h10301(1, 1)))
            time.sleep(3.0)
            second_s = time.time()
            door.line.write(bits_line(26, h10301(1, 1)))
            time.sleep(0.5)  # the kernel hands it over: it is not read as it comes
        first, second = door.wait_for(2)

    assert [first["card_number"], second["card_number"]] == [1, 1]
    assert_within(first, first_s)
    assert_within(second, second_s)


def test_a_swipe_between_two_processes_is_estimated_between_them(doors: NewDoor) -> None:
    needs(SYSTEMD_PYTHON)
    door = doors(held=True)
    with door.agent as agent:
        agent.end()
        stopped_s = time.time()
        time.sleep(1.0)
        door.line.present(TAG)
        happened_s = time.time()
        time.sleep(1.0)
        agent.start()
        (row,) = door.wait_for(1)
        started_s = time.time()

    assert_within(row, happened_s)
    # The interval begins with the stop, or up to some seconds earlier, but not with the boot.
    assert 2 * row["time_uncertainty_ms"] / 1e3 < started_s - stopped_s + 10.0


@pytest.mark.parametrize(("protocol", "swipes"), [("rdm6300", 1), ("bits", 2)])
def test_a_card_that_is_held_during_a_restart_is_one_swipe_if_its_reader_repeats(
    doors: NewDoor, protocol: str, swipes: int
) -> None:
    needs(SYSTEMD_PYTHON)
    door = doors(protocol=protocol, held=True)
    frame = bits_line(26, h10301(1, 1)) if protocol == "bits" else None

    def present() -> None:
        if frame is None:
            door.line.present(TAG)
        else:
            door.line.write(frame)

    with door.agent as agent:
        present()
        door.wait_for(1)
        agent.end()
        time.sleep(0.5)
        present()
        agent.start()
        if frame is None:
            door.line.present(TAG + 1)
        else:
            door.line.write(bits_line(26, h10301(1, 2)))
        wait_until(lambda: len({row["card_raw"] for row in door.rows()}) == 2, what="the other card")
        rows = door.rows()

    assert len(rows) == swipes + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_card_that_was_held_for_long_before_a_restart_is_one_swipe(
    doors: NewDoor, number: signal.Signals
) -> None:
    needs(SYSTEMD_PYTHON)
    door, ended = doors(held=True, hold_off_ms=2_000), threading.Event()

    def hold() -> None:
        while not ended.wait(0.2):
            door.line.present(TAG)

    card = threading.Thread(target=hold)
    with door.agent as agent:
        card.start()
        # Longer than the hold-off, and the second of which the end of a process is not certain.
        wait_until(lambda: agent.status()["readers"][0]["repeats"] >= 20, what="repeats of the card")
        if number == signal.SIGTERM:
            agent.end()
        else:
            agent.kill()
        agent.start()
        wait_until(lambda: agent.status()["readers"][0]["repeats"] >= 2, what="repeats after the restart")
        ended.set()
        card.join()
        door.line.present(TAG + 1)
        wait_until(lambda: len({row["card_raw"] for row in door.rows()}) == 2, what="the other card")

        assert len(door.rows()) == 2


def test_a_new_presentation_after_a_restart_is_a_swipe(doors: NewDoor) -> None:
    needs(SYSTEMD_PYTHON)
    door = doors(held=True)
    with door.agent as agent:
        door.line.present(TAG)
        door.wait_for(1)
        agent.end()
        agent.start()
        time.sleep(1.5)  # longer than the hold-off
        door.line.present(TAG)

        assert len(door.wait_for(2)) == 2


def test_a_program_that_holds_the_outbox_for_ten_seconds_costs_no_swipe_and_no_time(
    doors: NewDoor,
) -> None:
    door = doors()
    happened_s = []
    with door.agent:
        with closing(sqlite3.connect(door.agent.state_dir / "outbox.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            for tag in range(1, 21):
                time.sleep(0.5)
                happened_s.append(time.time())
                door.line.present(tag)
            other.rollback()
        rows = door.wait_for(20)
        assert "sudo fuser -v" in door.agent.log

    assert [row["card_raw"] for row in rows] == [f"{tag:010X}" for tag in range(1, 21)]
    for row, moment_s in zip(rows, happened_s, strict=True):
        assert abs(at_s(row) - moment_s) <= 0.25 + row.get("time_uncertainty_ms", 0) / 1e3
