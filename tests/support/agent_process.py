"""A real agent process, and the reader at the other end of its serial line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tty
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from operator import xor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.outbox import OutboxCounts, read_counts
from agent.readers.events import raw_hex
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, EmulatorProcess
from tests.support.outbox_rig import recomputed_chain
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

AGENT_ID = "test-door"
_END_SECONDS = 60.0
_LATEST_READ_MS = 5_000


def rdm6300_frame(tag: int) -> bytes:
    """What an RDM6300 sends for a tag of 40 bits: STX, ten hex digits, their checksum, ETX."""
    digits = f"{tag:010X}"
    return f"\x02{digits}{reduce(xor, bytes.fromhex(digits)):02X}\x03".encode()


def bits_line(bits: int, value: int) -> bytes:
    """What a Wiegand converter prints for a card: its length and its bits in hex."""
    return f"{bits}:{value:0{(bits + 3) // 4}X}\r\n".encode()


def h10301(facility_code: int, card_number: int) -> int:
    """The 26 bits of HID's standard format: even parity, 8 + 16 bits, odd parity."""
    data = facility_code << 16 | card_number
    even = (data >> 12).bit_count() % 2
    odd = 1 - (data & 0xFFF).bit_count() % 2
    return even << 25 | data << 1 | odd


class PtyReader:
    """A badge reader on a pseudo-terminal; `device` is a link to it, as udev keeps one for a USB port."""

    def __init__(self, device: Path) -> None:
        self.device = device
        self._master = self._slave = -1
        self.plug_in()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unplug()

    def plug_in(self) -> None:
        """Create the device, or create it again under another number."""
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        new = self.device.with_name(f"{self.device.name}.new")
        new.symlink_to(os.ttyname(self._slave))
        new.replace(self.device)

    def unplug(self) -> None:
        """Hang up the line and remove the device."""
        if self._master >= 0:
            self.device.unlink()
            # The master last: closing it hangs up the line for every other holder.
            os.close(self._slave)
            os.close(self._master)
            self._master = self._slave = -1

    def fileno(self) -> int:
        """The reader's end, for one that is asked."""
        return self._master

    def write(self, data: bytes) -> None:
        """Send bytes on the line."""
        assert os.write(self._master, data) == len(data)

    def write_all(self, data: bytes) -> None:
        """Send more bytes than the kernel buffers; returns once they are read."""
        while data:
            data = data[os.write(self._master, data) :]

    def present(self, tag: int) -> None:
        """Send the frame of an RDM6300 for a tag."""
        self.write(rdm6300_frame(tag))

    def present_steadily(self, tags: Sequence[int], per_second: float) -> None:
        """Send one tag after the other at a constant rate, without drift."""
        start = time.monotonic()
        for number, tag in enumerate(tags):
            time.sleep(max(0.0, start + number / per_second - time.monotonic()))
            self.present(tag)


class AgentProcess:
    """`badge-agent run` with its state, runtime files and log under `directory`."""

    def __init__(
        self,
        directory: Path,
        *,
        url: str,
        private_key_file: Path,
        readers: Sequence[str],
        tables: str = "",
        agent_lines: str = "",
        log_level: str = "info",
        heartbeat_minutes: float = 0,
        under: ServiceManager | None = None,
        but_first: str = "",
    ) -> None:
        """`readers` are bodies of [[readers]] tables (see reader_table), `tables` further TOML, `agent_lines`
        further lines of [agent].

        `but_first` is Python code to run before the agent starts, for intervals too long for a test.
        """
        directory.mkdir(parents=True, exist_ok=True)
        self.state_dir = directory / "state"
        self.runtime_dir = directory / "run"
        self.config = directory / "config.toml"
        self.log_file = directory / "agent.log"
        self.state_dir.mkdir(mode=0o700, exist_ok=True)
        self.config.write_text(
            f"""
[agent]
id = "{AGENT_ID}"
state_dir = "state"
runtime_dir = "run"
log_level = "{log_level}"
heartbeat_minutes = {heartbeat_minutes}
{agent_lines}

[snowflake]
account = "{ACCOUNT}"
user = "{USER}"
database = "{DATABASE}"
schema = "{SCHEMA}"
pipe = "{PIPE}"
private_key_file = "{private_key_file}"
url = "{url}"

[clock]
trust = "always"

{tables}
"""
            + "".join(f"\n[[readers]]\n{reader}\n" for reader in readers)
        )
        self._readers = len(readers)
        self._under = under
        code = f"{but_first}\nimport sys\nfrom agent.cli import main\nsys.exit(main(sys.argv[1:]))"
        self._python = [sys.executable, *(["-c", code] if but_first else ["-m", "agent"])]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:  # also a time-out of the test: no process may outlive it
            self._end_for_good()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_for_good()

    def _end_for_good(self) -> None:
        if self._process is not None:
            self.kill()

    def start(self, *, wait: bool = True) -> None:
        """Start it. With `wait`, returns when its readers are open."""
        with suppress(FileNotFoundError):
            (self.runtime_dir / "status.json").unlink()
        words, environment = [*self._python, "run", "--config", str(self.config)], None
        with self.log_file.open("ab") as log:
            if self._under is not None:
                words, environment = self._under.command(words), self._under.environment(log.fileno())
            self._process = subprocess.Popen(words, stderr=log, env=environment)
        if wait:
            wait_until(self._is_ready, what="an agent with open readers")

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; returns the exit code and the seconds until the end."""
        assert self._process is not None
        asked = time.monotonic()
        self._process.send_signal(number)
        return self.ended(), time.monotonic() - asked

    def ended(self) -> int:
        """Wait for its end; returns the exit code."""
        process, self._process = self._process, None
        assert process is not None
        return process.wait(timeout=_END_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL, as a power cut would."""
        self.end(signal.SIGKILL)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        """Everything it has logged, over all starts."""
        return self.log_file.read_text()

    def status(self) -> dict[str, Any]:
        """The status file of the runtime directory; empty if there is none yet."""
        try:
            status: dict[str, Any] = json.loads((self.runtime_dir / "status.json").read_bytes())
        except FileNotFoundError:
            return {}
        return status

    def outbox(self) -> OutboxCounts:
        """The counts of its outbox, running or stopped."""
        return read_counts(self.state_dir)

    def wait_until_committed(self, swipes: int, timeout_s: float = 60.0) -> None:
        """Return when `swipes` were kept and all are recorded as committed."""

        def done() -> bool:
            counts = self.outbox()
            return counts.last_seq >= swipes and counts.pending == 0

        try:
            wait_until(done, what=f"{swipes} committed swipes", timeout_s=timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; there is {self.outbox()}\n{self.log[-3_000:]}") from None

    def _is_ready(self) -> bool:
        assert self._process is not None
        code = self._process.poll()
        assert code is None, f"the agent ended with {code}:\n{self.log}"
        readers = self.status().get("readers", [])
        return len(readers) == self._readers and all(reader["state"] == "open" for reader in readers)


def reader_table(
    device: Path, *, protocol: str = "rdm6300", reader_id: str = "RDR-101", more: str = ""
) -> str:
    """The body of a [[readers]] table."""
    return f"""
id = "{reader_id}"
zone_id = "ZONE-LOBBY-1"
direction = "ENTRY"
port = "{device}"
protocol = "{protocol}"
{more}
"""


def sent_rows(pipe: EmulatorProcess) -> list[dict[str, Any]]:
    """The rows as they were sent, in the order in which they were committed."""
    return [json.loads(row["raw_json"]) for row in pipe.rows()]


def has_clock(row: dict[str, Any], clock: str) -> bool:
    """Whether the row's time is as sure as that, or says by how many seconds a busy machine read it late."""
    said, uncertainty_ms = str(row["clock"]), int(row.get("time_uncertainty_ms", 0))
    return said == clock or (said == "estimated" and 0 < uncertainty_ms < _LATEST_READ_MS)


def raws(tags: Sequence[int]) -> list[str]:
    return [raw_hex(40, tag) for tag in tags]


def assert_in_order_and_whole(rows: list[dict[str, Any]], tags: Sequence[int]) -> None:
    """Every tag once and in order, under consecutive numbers and an unbroken chain."""
    assert [row["card_raw"] for row in rows] == raws(tags)
    assert [row["seq"] for row in rows] == list(range(1, len(tags) + 1))
    assert len({row["event_id"] for row in rows}) == len(tags)
    previous = rows[0]["chain_before"]
    assert previous == rows[0]["outbox_id"]
    for row in rows:
        previous = recomputed_chain(previous, row)
        assert row["chain"] == previous
