"""A booted machine with the package installed, a reader on its port, and an emulator for its rows."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.agent_process import rdm6300_frame
from tests.support.booted_debian import BootedDebian
from tests.support.debian_root import Release
from tests.support.door import Door
from tests.support.emulator_process import EmulatorProcess

PORT = "/dev/serial/by-id/usb-Stand-in_RDM6300_0001-if00-port0"
_STAND_IN = Path(__file__).with_name("stand_in_reader.py")
_CLOCK_MARK = "/etc/tmpfiles.d/zz-time-server.conf"
_DELIVERED_S = 90.0


class StandInReader:
    """A simulated reader inside the machine; it adds each tag that it presents to `tags`."""

    def __init__(self, machine: BootedDebian, tags: list[int]) -> None:
        self._machine = machine
        self._tags = tags
        self._process: subprocess.Popen[str] | None = None

    def plug_in(self) -> None:
        """Create the reader's device; it lasts until the machine is shut down."""
        self.unplug()
        self._machine.put("/root/stand_in_reader.py", _STAND_IN.read_bytes())
        self._process = subprocess.Popen(
            self._machine.words("python3", "/root/stand_in_reader.py", PORT),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._expect("ready")

    def unplug(self) -> None:
        """Hang up the line."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate(timeout=10)

    def present(self, count: int) -> None:
        """Present `count` new tags, whether or not the port is open."""
        assert self._process is not None
        assert self._process.stdin is not None
        first = len(self._tags) + 1
        for tag in range(first, first + count):
            self._process.stdin.write(rdm6300_frame(tag).hex() + "\n")
            self._process.stdin.flush()
            self._expect("sent")
            self._tags.append(tag)

    def _expect(self, answer: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == answer


class InstalledAgent(Door):
    """Machine, reader and emulator of one release; the tests of a module share its state."""

    def __init__(self, release: Release, directory: Path) -> None:
        self.machine: BootedDebian = BootedDebian(release, directory)
        super().__init__(self.machine, EmulatorProcess(directory / f"{release.name}-pipe"), _DELIVERED_S)
        self.reader = StandInReader(self.machine, self.tags)
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            ends.enter_context(self.pipe)
            ends.enter_context(self.machine)
            ends.callback(self.reader.unplug)
            self.reader.plug_in()
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    # --- its environment ----------------------------------------------------------------------------

    def set_clock(self) -> None:
        """A time server has answered: the mark that systemd-timesyncd leaves, now and at each boot.

        timesyncd does not run in a container; the clock is the host's and correct.
        """
        self.machine.put(_CLOCK_MARK, b"f /run/systemd/timesync/synchronized\n")
        self.machine.run("systemd-tmpfiles", "--create", _CLOCK_MARK)

    def unset_clock(self) -> None:
        """No time server answers after the next boot."""
        self.machine.path(_CLOCK_MARK).unlink()

    # --- commands of an installer ---------------------------------------------------------------

    def install(self, package: Path) -> str:
        """`apt install ./badge-agent_VERSION_all.deb`; returns its output."""
        self.machine.put(f"/root/{package.name}", package.read_bytes())
        return self.machine.run(
            *("env", "DEBIAN_FRONTEND=noninteractive", "apt", "install", "--yes", "--no-install-recommends"),
            *("--option", "APT::Keep-Downloaded-Packages=true", f"/root/{package.name}"),
        )

    def set_up_reader(self) -> str:
        """`badge-agent setup --yes` for the reader; returns its output."""
        return self.set_up([f"id=RDR-101,zone=ZONE-LOBBY-1,direction=ENTRY,protocol=rdm6300,port={PORT}"])
