"""One agent process after the other on a simulated machine, built as the service builds them."""

from __future__ import annotations

import contextlib
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

from agent.errors import AgentError, NotPermittedError, OutboxError, OutboxUnavailableError, PortError
from agent.outbox.external.connection import is_there
from agent.readers.port import Port
from agent.service import build as service
from agent.service.inspector import Inspector
from agent.service.upload_loop import UploadLoop
from agent.settings import (
    AgentSettings,
    ClockSettings,
    HeartbeatSettings,
    OutboxSettings,
    PrivacySettings,
    ReaderSettings,
    Settings,
    SnowflakeSettings,
    UploaderSettings,
)
from agent.swipe import Swipe
from tests.simulation.lines import Lines
from tests.simulation.machine import Machine

_NEVER = math.inf
_REOPEN_S = 1.0
_RESTART_S = 3.0
_STOP_S = 4.0
# What a worker waits before it runs a body again that raised an OutboxError.
_WORKER_S = 1.0


class BugError(Exception):
    """A thread of the agent would have died, or a command would have ended with a traceback."""


class Door:
    """The state directory and the process that runs on it, if one runs. Times are true seconds."""

    def __init__(self, place: Path, machine: Machine, lines: Lines, key_file: Path, draw: Random) -> None:
        self.machine = machine
        self.lines = lines
        self.agent_id = "door"
        self.pipe = "PIPE"
        self._place = place
        self._key_file = key_file
        self._draw = draw
        self._number = 0
        self.state_dir = place / "state-0"
        self.state_dir.mkdir(mode=0o700)
        machine.disk.use(self.state_dir)
        self.readers: service.Readers | None = None
        self.agent: service.Agent | None = None
        self.retention_days = draw.choice((0.01, 1.0, 7.0))
        self.reserve_bytes = draw.choice((0, 60_000))
        self.hold_unsynced_s = draw.choice((0, 120))
        self.protocols = draw.sample(("rdm6300", "twn4", "em18"), 2)
        self.lost = 0  # swipes that the agent counted as lost
        self._last_write_s = -_NEVER
        self._stop_tasks()

    # --- processes --------------------------------------------------------------------------------

    def _stop_tasks(self) -> None:
        self.due: dict[str, float] = {}
        self._upload_loop: UploadLoop | None = None
        self._inspector: Inspector | None = None
        self.ports: list[Port | None] = [None, None]

    @property
    def is_running(self) -> bool:
        """Whether there is a process."""
        return self.readers is not None

    def settings(self) -> Settings:
        """As the configuration file has them."""
        names = ("RDR-101", "RDR-102")
        readers = tuple(
            ReaderSettings(name, "ZONE", self._place / f"tty{number}", protocol, keypad="none")
            for number, (name, protocol) in enumerate(zip(names, self.protocols, strict=True))
        )
        snowflake = SnowflakeSettings(
            "MYORG-MYACCOUNT", "USER", "DB", "SCHEMA", self.pipe, "http://127.0.0.1:9",
            private_key_file=self._key_file,
        )  # fmt: skip
        return Settings(
            AgentSettings(self.agent_id, self.state_dir, self._place / "run", heartbeat_minutes=0),
            readers,
            None,
            snowflake,
            OutboxSettings(retention_days=self.retention_days, reserve_bytes=self.reserve_bytes),
            UploaderSettings(),
            ClockSettings(hold_unsynced_seconds=self.hold_unsynced_s),
            PrivacySettings(),
            HeartbeatSettings(),
            self._place / "config.toml",
        )

    @property
    def now_s(self) -> float:
        """True time."""
        return self.machine.true_us / 1e6

    def start(self) -> None:
        """Start a process, or let systemd try again later."""
        try:
            self.readers = service.build_readers(self.settings(), changed=_nothing)
        except AgentError:
            self.due["start"] = self.now_s + _RESTART_S
            return
        self.due = {"open": self.now_s + 0.05, "port 0": self.now_s, "port 1": self.now_s}

    def _open(self) -> None:
        assert self.readers is not None
        try:
            agent = service.build(self.readers, kept=self._wake_uploader, changed=_nothing)
        except OutboxUnavailableError as error:
            self.readers.queue.problem = error
            self.readers.queue.refuse_excess()
            self.due["open"] = self.now_s + _REOPEN_S
            return
        except (OutboxError, NotPermittedError) as error:
            self.lost += len(self.readers.queue)
            self._abandon()
            self.due["start"] = self.now_s + _RESTART_S
            self.refused_start = error
            return
        self.agent = agent
        self._upload_loop = UploadLoop(agent, on_news=_nothing)
        self._inspector = Inspector(agent.outbox, recovered=self._wake_uploader)
        now_s = self.now_s
        self.due |= {"write": now_s, "upload": now_s, "inspect": now_s}

    def stop(self) -> list[Swipe]:
        """SIGTERM: what waits is stored, then the file is closed. Returns the swipes that were not stored."""
        left: list[Swipe] = []
        if self.readers is not None:
            for session, port in zip(self.readers.sessions, self.ports, strict=True):
                if port is not None:
                    session.stop()
                    with contextlib.suppress(PortError):
                        session.read_last(port)
            self._store_repeats()
        if self.readers is not None and self.agent is not None:
            self.agent.outbox.boots.observe(self.readers.clock.now())
            ends_s = self.machine.monotonic_s + _STOP_S
            self.agent.write_loop.stop(ends_s)
            while self.readers.queue and self.machine.monotonic_s < ends_s:
                try:
                    delay_s = self.agent.write_loop.step()
                except OutboxError:
                    delay_s = _WORKER_S
                self.pass_time(max(delay_s or 0.0, 1e-4) + self.machine.disk.slept_s())
            left = self.waiting()
            self.agent.outbox.close()
        elif self.readers is not None:
            left = self.waiting()
            self.readers.lock.release()
        self._close_ports()
        self.readers = self.agent = None
        self._stop_tasks()
        return left

    def kill(self, copy: Callable[[Path, Path], object]) -> None:
        """The process ends between two operations; the next one finds what `copy` leaves of its files."""
        self._number += 1
        old, self.state_dir = self.state_dir, self._place / f"state-{self._number}"
        copy(old, self.state_dir)
        self.machine.disk.use(self.state_dir)
        self._abandon()
        shutil.rmtree(old)

    def restore(self, content: Path) -> None:
        """The state directory is that of a backup, or of another card. No process runs."""
        self._number += 1
        old, self.state_dir = self.state_dir, self._place / f"state-{self._number}"
        shutil.copytree(content, self.state_dir)
        self.machine.disk.use(self.state_dir)
        shutil.rmtree(old)

    def _abandon(self) -> None:
        """Free what a process has that does not end with it here, without its last writes."""
        self._close_ports()
        if self.agent is not None:
            file = self.agent.outbox.file
            for connection in (file._reader, file._writer):
                connection.close()
            self.agent.outbox._mover.close()
        if self.readers is not None:
            self.readers.lock.release()
        self.readers = self.agent = None
        self._stop_tasks()

    # --- its threads ------------------------------------------------------------------------------

    def step(self) -> None:
        """Run what is due first."""
        name = min(self.due, key=self.due.__getitem__)
        try:
            match name:
                case "start":
                    del self.due[name]
                    self.start()
                case "open":
                    del self.due[name]
                    self._open()
                case "write":
                    self._write()
                case "upload":
                    assert self._upload_loop is not None
                    self.due[name] = self.now_s + self._upload_loop.step()
                case "port 0" | "port 1":
                    self._read(int(name[-1]))
                case "inspect":
                    assert self._inspector is not None
                    wait_s = self._inspector.step()
                    self.due[name] = _NEVER if wait_s is None else self.now_s + wait_s
        except OutboxError:
            self.due[name] = self.now_s + _WORKER_S
        if self.agent is not None and self.agent.outbox.needs_inspection.is_set():
            self.due["inspect"] = min(self.due["inspect"], self.now_s + 0.1)

    def _write(self) -> None:
        assert self.agent is not None
        self._last_write_s = self.now_s
        delay_s = self.agent.write_loop.step()
        self.due["write"] = _NEVER if delay_s is None else self.now_s + delay_s

    def _wake_uploader(self) -> None:
        if "upload" in self.due:
            self.due["upload"] = self.now_s

    def wake_writer(self) -> None:
        """A swipe is in the queue."""
        if "write" in self.due:
            self.due["write"] = min(self.due["write"], max(self.now_s, self._last_write_s + 0.1))

    def wake_port(self, number: int, *, is_first: bool = False) -> None:
        """The thread of a port has bytes to read, or sees that its device is gone.

        `is_first`: before what is overdue, which in truth runs at the same time and holds up no port.
        """
        if (name := f"port {number}") in self.due:
            self.due[name] = 0.0 if is_first else self.now_s

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.machine.advance_us(max(1, math.ceil(seconds * 1e6)))

    # --- readers ------------------------------------------------------------------------------------

    def _close_ports(self) -> None:
        for port in self.ports:
            if port is not None:
                port.close()
        self.ports = [None, None]

    def _store_repeats(self) -> None:
        assert self.readers is not None
        readers = [reader for session in self.readers.sessions for reader in session.readers]
        self.readers.last_repeats.write({one.settings.id: one.counts.last_repeat_boot_us for one in readers})

    def _read(self, number: int) -> None:
        """One step of a port's thread, as PortSession.run() does it."""
        assert self.readers is not None
        session, queue = self.readers.sessions[number], self.readers.queue
        before = len(queue)
        try:
            port = self.ports[number]
            if port is None:
                self.ports[number] = session.begin(_ignored)
            elif self._has_work(number):
                session.step(port)
        except (PortError, NotPermittedError) as error:
            if port is not None:
                port.close()
            self.ports[number] = None
            session._fd_store.clear()
            for reader in session.readers:
                reader.port_lost(error)
            self.due[f"port {number}"] = self.now_s + session._backoff.next()
            return
        if len(queue) != before:
            self.wake_writer()
            self._store_repeats()
        has_more = bool(self.lines.lines[number].buffer)
        self.due[f"port {number}"] = self.now_s + (0.0 if has_more else max(self._wait_s(number), 1e-6))

    def _wait_s(self, number: int) -> float:
        """Seconds until a timer of a port's readers."""
        assert self.readers is not None
        now_s = self.machine.monotonic_s
        return min(reader.wait_s(now_s) for reader in self.readers.sessions[number].readers)

    def _has_work(self, number: int) -> bool:
        """Whether a step of the port ends: it waits for bytes or for a timer."""
        line = self.lines.lines[number]
        is_readable = bool(line.buffer) or line.incoming is not None or not line.is_plugged
        return is_readable or self._wait_s(number) < 0.001

    def arrive(self, number: int, data: bytes, after_us: int) -> int:
        """Bytes arrive at a line; returns how many the kernel keeps, or the agent reads immediately."""
        line = self.lines.lines[number]
        if not self.is_running or self.ports[number] is None or not line.is_plugged:
            self.machine.advance_us(after_us)
            return line.arrive(data)
        line.incoming = after_us, data
        while line.incoming is not None and self.ports[number] is not None:
            self._read(number)
        line.incoming = None
        return len(data)

    def poll(self) -> None:
        """The threads of the ports look at their lines once more, before they are stopped for a while."""
        for number, line in enumerate(self.lines.lines):
            while line.buffer and self.ports[number] is not None:
                self._read(number)
            if (port := self.ports[number]) is not None:
                with contextlib.suppress(PortError):
                    port._read([port.fileno()], 0.0)

    def waiting(self) -> list[Swipe]:
        """The swipes in memory."""
        return self.readers.queue.first(100_000) if self.readers is not None else []

    @property
    def has_outbox(self) -> bool:
        """Whether there is a file."""
        return is_there(self.state_dir)


def _nothing() -> None:
    """For a callback that is not needed."""


def _ignored(_: bool) -> None:  # noqa: FBT001 - as the agent calls it
    """For the watchdog's callback."""
