"""A Debian with its own kernel in qemu, badge readers at its USB sockets, and an emulator for its rows."""

from __future__ import annotations

import json
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import machine_image
from tests.support.agent_process import rdm6300_frame
from tests.support.debian_root import Release
from tests.support.door import Door
from tests.support.emulator_process import EmulatorProcess
from tests.support.machine import Machine
from tests.support.qemu import Qemu

# A hang, even of an emulated processor on a busy host. No test depends on its length.
HANGS_S = 900.0
_TIME_SERVER = Path(__file__).with_name("guest_time_server.py")


class WholeMachine(Machine):
    """A machine with its own kernel; its commands arrive over a virtio port, so that it needs no network."""

    command_s = HANGS_S

    def __init__(self, release: Release, directory: Path, host_port: int) -> None:
        self.hardware = Qemu(machine_image.image(release), release.arch, directory, host_port)
        self._host_port = host_port
        self._shell: socket.socket | None = None

    def boot(self, rtc: str = "utc") -> float:
        """Power on; returns when systemd has started all units, with the seconds that took."""
        begun = time.monotonic()
        self.hardware.power_on(rtc)
        self._shell = self.hardware.shell()
        state = self.run("systemctl", "is-system-running", "--wait", check=False).strip()
        assert state in {"running", "degraded"}, state
        return time.monotonic() - begun

    def cut_power(self) -> None:
        """End it without notice to the guest."""
        self.hardware.cut_power()
        self._close()

    def execute(self, *words: str, timeout_s: float) -> tuple[int, str]:
        """Run a command in it; returns its exit code and its output, standard error included."""
        answer = self._ask({"words": words}, timeout_s)
        return int(str(answer["code"])), str(answer["output"])

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file in it."""
        self._ask({"path": path, "hex": content.hex(), "mode": mode}, HANGS_S)

    def connect_loopback(self) -> None:
        """Make the emulator on the host reachable at its own number on the loopback of the guest."""
        self.put(
            "/etc/systemd/system/gate.socket",
            f"[Socket]\nListenStream=127.0.0.1:{self._host_port}\n[Install]\nWantedBy=sockets.target\n".encode(),
        )
        self.put(
            "/etc/systemd/system/gate.service",
            "[Service]\nExecStart=/usr/lib/systemd/systemd-socket-proxyd "
            f"{self.hardware.GATE}:{self._host_port}\n".encode(),
        )
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "enable", "--now", "gate.socket")

    def serve_time(self) -> None:
        """Start a time server with the host's time; returns when the clock of the guest is synchronised."""
        self.put("/etc/systemd/timesyncd.conf.d/door.conf", b"[Time]\nNTP=127.0.0.1\n")
        self.put("/usr/local/sbin/guest_time_server.py", _TIME_SERVER.read_bytes())
        before = time.time()
        boot_s = float(self.run("cat", "/proc/uptime").split()[0])
        offset_s = (before + time.time()) / 2 - boot_s
        self.run(
            *("systemd-run", "--unit=time-server", "--collect"),
            *("python3", "/usr/local/sbin/guest_time_server.py", f"{offset_s}"),
        )
        self.run("systemctl", "restart", "systemd-timesyncd")
        self.run("sh", "-c", "until test -e /run/systemd/timesync/synchronized; do sleep 0.1; done")

    def _ask(self, asked: dict[str, object], timeout_s: float) -> dict[str, object]:
        assert self._shell is not None, "the machine is off"
        self._shell.settimeout(timeout_s)
        self._shell.sendall(json.dumps(asked).encode() + b"\n")
        answer = bytearray()
        while not answer.endswith(b"\n"):
            read = self._shell.recv(65536)
            assert read, "the machine went off"
            answer += read
        read_answer: dict[str, object] = json.loads(answer)
        return read_answer

    def _close(self) -> None:
        if self._shell is not None:
            self._shell.close()
        self._shell = None


class WholeDoor(Door):
    """Machine, readers and emulator; `with` boots it, leaving cuts its power.

    `presented_at` are the host's times at which tags were presented, in seconds since 1970.
    """

    def __init__(self, release: Release, directory: Path) -> None:
        self._pipe = EmulatorProcess(directory / "pipe")
        self._release = release
        self._directory = directory
        self._ends = ExitStack()
        self.presented_at: dict[int, float] = {}

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.enter_context(self._pipe)
            port = int(self._pipe.url.rpartition(":")[2])
            self.machine: WholeMachine = WholeMachine(self._release, self._directory / "vm", port)
            super().__init__(self.machine, self._pipe, HANGS_S)
            ends.callback(self.machine.cut_power)
            self.booted_s = self.machine.boot()
            self.machine.connect_loopback()
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def install(self, package: Path) -> str:
        """`dpkg --install`, without a network; returns its output."""
        self.machine.put(f"/root/{package.name}", package.read_bytes())
        return self.machine.run("dpkg", "--install", f"/root/{package.name}")

    def present(self, reader: str, count: int = 1, *, per_second: float = 20.0) -> None:
        """Present new tags at a reader, whether or not its port is open, at a constant rate."""
        start = time.monotonic()
        first = len(self.tags) + 1
        for number, tag in enumerate(range(first, first + count)):
            time.sleep(max(0.0, start + number / per_second - time.monotonic()))
            self.presented_at[tag] = time.time()
            self.machine.hardware.send(reader, rdm6300_frame(tag))
            self.tags.append(tag)
