"""Who else uses an open port, and a driver that hangs: reported when it begins and when it ends."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import pytest
import serial

from agent.cli.findings import reader_findings
from agent.log.message_ids import MessageId, fields_of
from agent.readers import port_names
from agent.readers.session import PortSession
from agent.service import port_watch
from agent.service.port_watch import PortWatch
from agent.service.worker import Worker
from agent.settings import ReaderSettings
from tests.support.agent_process import PtyReader
from tests.support.fd_store import MemoryFdStore
from tests.support.needs import ROOT_USER, needs
from tests.support.stand_in_sink import MemorySink
from tests.support.swipes import DrivenClock, wait_until

OPEN_AND_WAIT = "import os, sys; os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY); print(1, flush=True); input()"


class Door:
    """Readers on lines of their own, each with its worker."""

    def __init__(self, directory: Path, ends: ExitStack) -> None:
        self.lines = [ends.enter_context(PtyReader(directory / name)) for name in ("one", "two")]
        readers = [
            ReaderSettings(id=f"R{n}", zone_id="Z", port=line.device, protocol="rdm6300")
            for n, line in enumerate(self.lines)
        ]
        self.sinks = [MemorySink() for _ in readers]
        self.sessions = [
            PortSession(
                [reader],
                sink=sink,
                clock=DrivenClock(),
                changed=lambda: None,
                fd_store=ends.enter_context(MemoryFdStore()),
                all_readers=readers,
            )
            for reader, sink in zip(readers, self.sinks, strict=True)
        ]
        self.readers = [session.readers[0] for session in self.sessions]
        self.workers = [Worker(s.ids, s.run, hung_after_s=0.2) for s in self.sessions]
        self.watch = PortWatch(self.sessions)
        ends.callback(self._stop)

    def start(self) -> None:
        for worker in self.workers:
            worker.start()

    def _stop(self) -> None:
        for session in self.sessions:
            session.stop()
        assert all(worker.join(10.0) for worker in self.workers)


@pytest.fixture
def door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Door]:
    caplog.set_level(logging.INFO, logger="agent")
    monkeypatch.setattr(port_watch, "LOOK_EVERY_S", 0.0)
    with ExitStack() as ends:
        yield Door(tmp_path, ends)


def logged(caplog: pytest.LogCaptureFixture, event: MessageId) -> list[str]:
    return [
        record.getMessage() for record in caplog.records if fields_of(record).get("MESSAGE_ID") == str(event)
    ]


def test_another_program_on_an_open_port_is_reported_once_and_its_end_too(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    needs(ROOT_USER)  # an exclusive terminal keeps all others out
    door.start()
    wait_until(lambda: door.readers[0].counts.state == "open", what="an open port")
    # Opened before TIOCEXCL, or by root: the line is read by both.
    with subprocess.Popen(
        [sys.executable, "-c", OPEN_AND_WAIT, str(door.lines[0].device)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline()
        door.watch.look()
        door.watch.look()
        (problem,) = door.watch.problems(door.readers[0])
        other.kill()
    door.watch.look()

    assert f"process {other.pid} (python" in problem.text
    assert f"ps -p {other.pid}" in problem.next
    assert len(logged(caplog, MessageId.PORT_SHARED)) == 1
    assert len(logged(caplog, MessageId.PORT_ALONE)) == 1
    assert door.watch.problems(door.readers[0]) == ()


def test_a_name_that_two_adapters_claim_is_reported_once_and_shown_by_status(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, claimants = door.lines[0].device, tmp_path / "links" / door.lines[0].device.name
    monkeypatch.setattr(port_names, "DEV", tmp_path)
    monkeypatch.setattr(port_names, "UDEV_LINKS", tmp_path / "links")
    claimants.mkdir(parents=True)
    for number in ("c188:0", "c188:1"):
        (claimants / number).touch()
    door.start()
    wait_until(lambda: door.readers[0].counts.state == "open", what="an open port")

    door.watch.look()
    door.watch.look()
    problems = door.watch.problems(door.readers[0])
    (claimants / "c188:1").unlink()
    door.watch.look()

    status = {"id": "R0", "state": "open", "problems": [asdict(one) for one in problems]}
    (finding,) = reader_findings([status])
    assert (finding.name, finding.state) == ("reader R0", "warning")
    assert finding.text.startswith(
        f"several adapters claim the name {name}, at present it is {name.resolve()}"
    )
    assert "present a card at this reader" in finding.next
    assert len(logged(caplog, MessageId.PORT_SHARED)) == 1
    assert len(logged(caplog, MessageId.PORT_ALONE)) == 1
    assert door.watch.problems(door.readers[0]) == ()


def test_a_driver_that_hangs_in_open_stops_its_own_reader_only(
    door: Door, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port_watch, "_HUNG_S", 0.5)
    answers, open_port = threading.Event(), serial.Serial.open
    hung = str(door.lines[0].device.resolve())

    def slow_open(port: serial.Serial) -> None:
        if port.port == hung:
            assert answers.wait(60.0)
        open_port(port)

    monkeypatch.setattr(serial.Serial, "open", slow_open)
    door.start()
    try:
        door.lines[1].present(1)
        wait_until(lambda: door.readers[1].counts.state == "open", what="the other port")
        door.lines[1].present(2)
        wait_until(lambda: bool(door.sinks[1].kept), what="a swipe of the other reader")

        def is_reported() -> bool:
            door.watch.look()
            return bool(door.watch.problems(door.readers[0]))

        wait_until(is_reported, what="the report of the hanging driver")
        door.watch.look()
        healthy = [worker.is_healthy() for worker in door.workers]
    finally:
        answers.set()

    (line,) = logged(caplog, MessageId.PORT_SHARED)
    assert "does not return from opening it" in line
    assert healthy == [True, True]
    wait_until(lambda: door.readers[0].counts.state == "open", what="the first port")
    door.watch.look()
    assert logged(caplog, MessageId.PORT_ALONE) == ["reader R0: the problem with its port has ended"]


def test_of_two_readers_on_one_device_the_second_waits_until_it_has_its_own(
    door: Door, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (line.device for line in door.lines)
    own = second.readlink()
    second.unlink()
    second.symlink_to(first.readlink())
    door.start()

    wait_until(lambda: door.readers[1].counts.problem is not None, what="the second reader's problem")
    wait_until(lambda: door.readers[0].counts.state == "open", what="the first reader's port")
    (problem,) = door.watch.problems(door.readers[1])
    second.unlink()
    second.symlink_to(own)

    wait_until(lambda: door.readers[1].counts.state == "open", what="the second reader's own port")
    assert problem.text == f"{second} is at present {first.resolve()}, the port of reader R0"
    assert "by-path" in problem.next
    assert len(logged(caplog, MessageId.READER_LOST)) == 1
