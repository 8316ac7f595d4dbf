"""A booted machine with the package installed, a reader on its port, and an emulator for its rows."""

from __future__ import annotations

import json
import re
import subprocess
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.support.agent_process import assert_in_order_and_whole, raws, rdm6300_frame, sent_rows
from tests.support.booted_debian import BootedDebian, wait_until
from tests.support.debian_root import Release
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, EmulatorProcess

PORT = "/dev/serial/by-id/usb-Stand-in_RDM6300_0001-if00-port0"
_STAND_IN = Path(__file__).with_name("stand_in_reader.py")
_CLOCK_MARK = "/etc/tmpfiles.d/zz-time-server.conf"
_DELIVERED_S = 90.0


class StandInReader:
    """A simulated reader inside the machine; `tags` are those presented so far."""

    def __init__(self, machine: BootedDebian) -> None:
        self.tags: list[int] = []
        self._machine = machine
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
        first = len(self.tags) + 1
        for tag in range(first, first + count):
            self._process.stdin.write(rdm6300_frame(tag).hex() + "\n")
            self._process.stdin.flush()
            self._expect("sent")
            self.tags.append(tag)

    def _expect(self, answer: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == answer


class InstalledAgent:
    """Machine, reader and emulator of one release; the tests of a module share its state."""

    def __init__(self, release: Release, directory: Path) -> None:
        self.machine = BootedDebian(release, directory)
        self.pipe = EmulatorProcess(directory / f"{release.name}-pipe")
        self.reader = StandInReader(self.machine)
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

    def cut_network(self) -> None:
        """Wait until all rows are committed, then refuse every connection."""
        self.wait_until_pending(0)
        self.pipe.fault("refuse")

    def restore_network(self) -> None:
        """Accept connections again."""
        self.pipe.fault("refuse", seconds=0.1)

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

    def set_up(self) -> str:
        """`badge-agent setup --yes`, as for a fleet; returns its output."""
        reader = f"id=RDR-101,zone=ZONE-LOBBY-1,direction=ENTRY,protocol=rdm6300,port={PORT}"
        return self.agent(
            *("setup", "--yes", f"--account={ACCOUNT}", f"--user={USER}", f"--database={DATABASE}"),
            *(f"--schema={SCHEMA}", f"--pipe={PIPE}", "--agent-id=door-1", f"--reader={reader}"),
            *(f"--url={self.pipe.url}",),
            check=False,
        )

    def agent(self, *words: str, check: bool = True) -> str:
        """`sudo badge-agent WORDS`; returns its output."""
        return self.machine.run("badge-agent", *words, check=check)

    def register(self, sql: str) -> None:
        """Apply the ALTER USER lines in a text, as an administrator would."""
        found = re.findall(r"ALTER USER \S+ (SET|UNSET) (RSA_PUBLIC_KEY(?:_2)?)(?:='([^']+)')?", sql)
        assert found, f"no ALTER USER in:\n{sql}"
        for verb, name, line in found:
            self.pipe.alter_user(name, line if verb == "SET" else None)

    def signal(self, name: str) -> None:
        """`kill -NAME` to the agent."""
        self.machine.run("systemctl", "kill", f"--signal={name}", "--kill-who=main", "badge-agent")

    # --- observation ----------------------------------------------------------------------------

    def status(self) -> dict[str, Any]:
        """`badge-agent status --json`."""
        printed = self.agent("status", "--json", check=False)
        assert printed.startswith("{"), printed
        status: dict[str, Any] = json.loads(printed)
        return status

    def pid(self) -> int:
        """The agent's process id inside the machine."""
        return int(self.machine.service("MainPID")["MainPID"])

    def wait_until_open(self) -> None:
        """Return when the agent runs and its reader is open."""

        def is_open() -> bool:
            status = self.status()
            readers = status["readers"]
            return bool(status["running"] and readers and readers[0]["state"] == "open")

        wait_until(is_open, "the reader is open", _DELIVERED_S)

    def wait_until_pending(self, count: int) -> None:
        """Return when `count` swipes are pending in the outbox."""
        wait_until(lambda: self.status()["outbox"]["pending"] == count, f"{count} pending", _DELIVERED_S)

    def assert_delivered(self) -> list[dict[str, Any]]:
        """Every tag presented is in the table once, in order, with an unbroken chain; returns the rows."""
        wanted = set(raws(self.reader.tags))

        def all_there() -> bool:
            return wanted <= {row["card_raw"] for row in sent_rows(self.pipe)}

        try:
            wait_until(all_there, "every swipe is in the table", _DELIVERED_S)
        except AssertionError:
            missing = wanted - {row["card_raw"] for row in sent_rows(self.pipe)}
            raise AssertionError(f"{len(missing)} swipes are missing\n{self.machine.journal()}") from None
        rows = sent_rows(self.pipe)
        assert_in_order_and_whole(rows, self.reader.tags)
        return rows
