from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock.system_clock import boottime_us
from agent.errors import LineSettingsError, NotPermittedError, PortBusyError, PortError
from agent.readers.port import Port, holders_of
from agent.readers.protocol import LineSettings
from agent.readers.protocols import PROTOCOLS
from tests.support.agent_process import PtyReader
from tests.support.swipes import wait_until

HOLD = """
import sys
from agent.readers.port import Port
from agent.readers.protocol import LineSettings
port = Port(sys.argv[1], LineSettings())
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def port(line: PtyReader) -> Iterator[Port]:
    port = Port(str(line.device), LineSettings())
    yield port
    port.close()


def voluntary_switches(native_id: int) -> int:
    status = Path(f"/proc/self/task/{native_id}/status").read_text()
    return int(status.partition("voluntary_ctxt_switches:")[2].split()[0])


def test_line_settings_that_the_driver_lacks_are_named(line: PtyReader) -> None:
    settings = LineSettings(data_bits=7, parity="E")
    Port(str(line.device), LineSettings()).close()

    # A pseudo-terminal has 8N1 only; of several changes the kernel makes those that are possible.
    with pytest.raises(LineSettingsError) as raised:
        Port(str(line.device), settings)

    assert str(raised.value) == f"{line.device}: its driver does not support {settings}"
    Port(str(line.device), LineSettings()).close()


def test_bytes_arrive_as_they_were_sent(line: PtyReader, port: Port) -> None:
    sent = bytes(range(256))

    line.write(sent)

    received = b""
    while len(received) < len(sent) and (data := port.read(5.0)):
        received += data
    assert received == sent


def test_bytes_that_come_during_the_wait_are_read_as_they_arrive(line: PtyReader, port: Port) -> None:
    ages_us = []
    for _ in range(5):  # the machine may suspend this process in one of them
        sender = threading.Timer(0.4, line.write, [b"card"])
        sender.start()
        assert port.read(10.0) == b"card"
        ages_us.append(boottime_us() - port.since_us)
        sender.join()

    assert min(ages_us) < 250_000


def test_bytes_that_waited_arrived_since_the_end_of_the_last_read(line: PtyReader, port: Port) -> None:
    before_us = boottime_us()
    assert port.read(0.0) == b""
    after_us = boottime_us()
    time.sleep(0.4)
    line.write(b"card")

    assert port.read(10.0) == b"card"

    assert before_us <= port.since_us <= after_us


def test_a_backlog_longer_than_a_read_is_one_interval(line: PtyReader, port: Port) -> None:
    port.read(0.0)
    writer = threading.Thread(target=line.write_all, args=[b"x" * 20_000])
    writer.start()
    time.sleep(0.4)  # until the kernel's buffers are full, and the writer waits

    received, begins = 0, []
    while received < 4 * 1024:
        received += len(port.read(10.0))
        begins.append(port.since_us)
    while received < 20_000:
        received += len(port.read(10.0))
    writer.join()

    assert len(set(begins)) == 1


def test_input_of_a_port_that_was_held_arrived_since_its_last_use(line: PtyReader) -> None:
    first = Port(str(line.device), LineSettings())
    held = os.dup(first.fileno())
    first.close()
    line.write(b"card")

    second = Port(str(line.device), LineSettings(), held=held, held_since_us=4711)

    assert second.read(1.0) == b"card"
    assert second.since_us == 4711
    line.write(b"card")
    assert second.read(1.0) == b"card"
    assert second.since_us > 4711
    second.close()


def test_silence_is_told_as_no_bytes(port: Port) -> None:
    assert port.read(0.01) == b""


def test_a_port_that_we_have_is_not_had_twice(line: PtyReader, port: Port) -> None:
    with pytest.raises(PortBusyError, match="is held by another process"):
        Port(str(line.device), LineSettings())

    assert port.read(0.0) == b""


def test_a_port_that_was_held_open_meanwhile_still_has_what_the_reader_sent(line: PtyReader) -> None:
    first = Port(str(line.device), LineSettings())
    held = os.dup(first.fileno())
    first.close()

    line.write(b"swiped between two lives")
    second = Port(str(line.device), LineSettings(), held=held)

    assert second.read(1.0) == b"swiped between two lives"
    assert not Path(f"/proc/self/fd/{held}").exists()
    second.close()


def test_a_port_that_was_held_is_ours_alone_again(line: PtyReader) -> None:
    first = Port(str(line.device), LineSettings())
    held = os.dup(first.fileno())
    first.close()

    second = Port(str(line.device), LineSettings(), held=held)

    with pytest.raises(PortBusyError):
        Port(str(line.device), LineSettings())
    second.close()


def test_what_was_held_of_a_device_that_is_gone_is_of_no_use(line: PtyReader) -> None:
    first = Port(str(line.device), LineSettings())
    held = os.dup(first.fileno())
    first.close()
    line.write(b"before")

    line.unplug()
    line.plug_in()
    line.write(b"stale, and flushed")
    second = Port(str(line.device), LineSettings(), held=held)
    line.write(b"after")

    assert second.read(1.0) == b"after"
    second.close()


def test_a_port_that_another_process_has_names_that_process(line: PtyReader) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(line.device)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"

        with pytest.raises(PortBusyError, match=f"{line.device} is held by process {process.pid}$") as caught:
            Port(str(line.device), LineSettings())
        process.kill()

    assert f"ps -p {process.pid}" in caught.value.hint


def test_a_closed_port_is_free(line: PtyReader) -> None:
    Port(str(line.device), LineSettings()).close()

    Port(str(line.device), LineSettings()).close()


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PortError, match=r"ttyUSB9 is not there") as caught:
        Port(str(tmp_path / "ttyUSB9"), LineSettings())

    assert "/dev/serial/by-id/" in caught.value.hint


def test_a_file_that_is_no_serial_port_is_a_lost_port_and_no_crash(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(PortError, match="file"):
        Port(str(tmp_path / "file"), LineSettings())


@pytest.fixture
def locked_device(tmp_path: Path) -> Path:
    device = tmp_path / "ttyS0"
    device.touch(mode=0)
    return device


@pytest.mark.usefixtures("locked_device", "unprivileged")
def test_a_port_without_permission_says_which_group_is_missing(locked_device: Path) -> None:
    with pytest.raises(NotPermittedError, match=f"not permitted to open {locked_device}") as caught:
        Port(str(locked_device), LineSettings())

    assert "dialout" in caught.value.hint


def test_a_device_that_the_unit_does_not_allow_has_its_own_words(
    line: PtyReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Filtered:
        """The system's calls under a device filter, which needs a control group of its own."""

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        @staticmethod
        def open(_path: str, _flags: int) -> int:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr("serial.serialposix.os", Filtered())

    with pytest.raises(NotPermittedError) as caught:
        Port(str(line.device), LineSettings())

    number = f"char-{os.major(line.device.stat().st_rdev)}"
    assert (
        str(caught.value) == f"{line.device}: DeviceAllow= of the unit does not name this device ({number})"
    )
    assert f"DeviceAllow={number} rw" in caught.value.hint


def test_a_line_that_hangs_up_is_a_lost_port(line: PtyReader, port: Port) -> None:
    line.unplug()

    with pytest.raises(PortError):
        port.read(5.0)


def test_a_driver_that_accepts_nothing_more_holds_up_no_request(port: Port) -> None:
    for _ in range(64):
        port.write(bytes(4096))

    with pytest.raises(BlockingIOError):
        os.write(port.fileno(), bytes(4096))


@pytest.mark.parametrize("least", [0, 1])
def test_a_port_whose_bytes_another_process_has_read_is_not_lost(line: PtyReader, least: int) -> None:
    taken = b""

    def take(is_after_a_wait: bool) -> None:  # noqa: FBT001 - as the port calls it
        nonlocal taken
        if is_after_a_wait and not taken:
            taken = os.read(shared.fileno(), 100)

    shared = Port(str(line.device), LineSettings(), busy=take)
    mode = termios.tcgetattr(shared.fileno())
    mode[6][termios.VMIN] = least  # terminal programs set 1
    termios.tcsetattr(shared.fileno(), termios.TCSANOW, mode)
    line.write(b"first")

    assert shared.read(0.3) == b""
    assert taken == b"first"
    line.write(b"second")
    assert shared.read(10.0) == b"second"
    shared.close()


def test_a_stop_ends_the_read_that_waits_and_every_later_one(port: Port) -> None:
    answers: list[bytes] = []
    thread = threading.Thread(target=lambda: answers.extend([port.read(None), port.read(None)]))
    thread.start()

    port.stop()

    thread.join(5.0)
    assert not thread.is_alive()
    assert answers == [b"", b""]


def test_a_stop_ends_a_pause(port: Port) -> None:
    port.stop()
    begun_s = time.monotonic()

    port.pause(10.0)

    assert time.monotonic() - begun_s < 5.0


def test_the_rest_of_a_frame_is_waited_for_after_a_stop(line: PtyReader, port: Port) -> None:
    port.stop()
    port.read(None)
    later = threading.Timer(0.05, line.write, [b"rest"])
    later.start()

    received = port.read_rest(5.0)

    later.join()
    assert received == b"rest"


def test_bytes_that_came_before_the_stop_are_still_read(line: PtyReader, port: Port) -> None:
    line.write(b"abc")
    port.stop()

    assert port.read(None) == b"abc"


def test_an_idle_port_wakes_the_processor_eight_times_a_second(port: Port) -> None:
    thread = threading.Thread(target=port.read, args=(None,))
    thread.start()
    wait_until(lambda: thread.native_id is not None, what="a thread")
    native_id = thread.native_id
    assert native_id is not None
    time.sleep(0.2)  # until it waits
    before = voluntary_switches(native_id)

    time.sleep(1.0)

    after = voluntary_switches(native_id)
    port.stop()
    thread.join()
    assert after - before <= 20  # a machine under load may take longer than a second to sleep for one


def test_the_name_of_a_port_is_followed_anew_at_every_open(line: PtyReader) -> None:
    first = Port(str(line.device), LineSettings())
    before = first.resolved
    other, slave = os.openpty()  # takes the number that replugging would give back
    first.close()
    line.unplug()
    line.plug_in()

    second = Port(str(line.device), LineSettings())

    second.close()
    os.close(slave)
    os.close(other)
    assert before.startswith("/dev/pts/")
    assert second.resolved == os.path.realpath(line.device)


@pytest.mark.parametrize(
    ("hold", "asked"), [(True, {"DTR": "low", "RTS": "low"}), (False, {"DTR": "high", "RTS": "high"})]
)
def test_boards_that_reset_on_open_find_dtr_and_rts_low(
    line: PtyReader, monkeypatch: pytest.MonkeyPatch, *, hold: bool, asked: dict[str, str]
) -> None:
    levels = {termios.TIOCMBIC: "low", termios.TIOCMBIS: "high"}
    lines = {termios.TIOCM_DTR: "DTR", termios.TIOCM_RTS: "RTS"}
    seen: dict[str, str] = {}

    class ModemLines:
        """The system's calls, with the modem lines that a pty does not have."""

        def __getattr__(self, name: str) -> object:
            return getattr(fcntl, name)

        @staticmethod
        def ioctl(fd: int, request: int, argument: bytes) -> bytes:
            if request not in levels:
                return fcntl.ioctl(fd, request, argument)
            seen[lines[int.from_bytes(argument, sys.byteorder)]] = levels[request]
            return argument

    monkeypatch.setattr("serial.serialposix.fcntl", ModemLines())

    Port(str(line.device), LineSettings(hold_reset_lines=hold)).close()

    assert seen == asked


@pytest.mark.parametrize("name", ["bits", "yaawl", "monkeyboard", "esphome"])
def test_protocols_of_boards_hold_the_lines_that_reset_them(name: str) -> None:
    assert PROTOCOLS[name].line.hold_reset_lines


@pytest.mark.parametrize("name", ["rdm6300", "id12la", "s4a", "rfideas"])
def test_readers_that_may_be_powered_by_those_lines_have_them(name: str) -> None:
    assert not PROTOCOLS[name].line.hold_reset_lines


def test_nobody_holds_a_device_that_nobody_opened(tmp_path: Path) -> None:
    assert holders_of(str(tmp_path / "device")) == []
