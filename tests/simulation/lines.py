"""The serial lines of a simulated door, in place of pyserial and select(2), and systemd's store."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

from tests.simulation.machine import Machine

# What the kernel buffers of a port (docs/architecture.md, 3): bytes after that are lost.
_BUFFERED_BYTES = 4_096
# Two devices that every machine has, for the names of two ports to lead to; nothing is read from them.
_DEVICES = (Path("/dev/null"), Path("/dev/zero"))


class Line:
    """One serial port: the bytes that the agent has not read yet."""

    def __init__(self, name: Path, device: Path) -> None:
        self.name = name
        self.device = str(device)
        self.buffer = bytearray()
        self.open_by: set[int] = set()  # descriptors of the agent
        self.is_stored = False  # systemd holds it open, too
        self.incoming: tuple[int, bytes] | None = None  # microseconds from now on, and what arrives then
        self.unread: list[int] = []  # the swipes among the buffered bytes
        self.discarded: list[int] = []  # those that were never read
        self.read_us: dict[int, int] = {}  # when the last bytes of each other one were read
        self.has_chatter = False  # among the buffered bytes: a line without an end
        self.quiet_us = 0  # until then a card continues the line that was read
        self.plug()

    def plug(self) -> None:
        """The device is there."""
        self.name.unlink(missing_ok=True)
        self.name.symlink_to(self.device)
        self.is_plugged = True

    def unplug(self) -> None:
        """The device is gone, with what it had buffered."""
        self.name.unlink(missing_ok=True)
        self.is_plugged = False
        self.discard()

    def discard(self) -> None:
        """What is buffered is lost."""
        self.discarded += self.unread
        self.unread.clear()
        self.buffer.clear()
        self.has_chatter = False

    def was_stopped(self, us: int) -> None:
        """No process ran for so long: what it had read stays as recent as it was."""
        self.read_us = {number: read_us + us for number, read_us in self.read_us.items()}

    @property
    def is_open(self) -> bool:
        """Whether the kernel keeps what arrives."""
        return self.is_plugged and bool(self.open_by or self.is_stored)

    def arrive(self, data: bytes) -> int:
        """Bytes arrive; returns how many the kernel keeps."""
        room = _BUFFERED_BYTES - len(self.buffer) if self.is_open else 0
        self.buffer += data[: max(0, room)]
        return min(len(data), max(0, room))


class Lines:
    """Both lines, and what takes the place of pyserial, select and systemd."""

    def __init__(self, place: Path, machine: Machine) -> None:
        self.machine = machine
        self.lines = [Line(place / f"tty{number}", device) for number, device in enumerate(_DEVICES)]
        self._stored: dict[str, int] = {}
        self.has_store = True

    def replaced(self) -> Iterator[tuple[str, object]]:
        """What to replace of the agent's libraries."""
        lines = self

        class Serial(_Serial):
            all_lines = lines

        yield "agent.readers.port._Serial", Serial
        yield "agent.readers.port.select", SimpleNamespace(select=self._select)
        yield "agent.readers.port.fcntl", SimpleNamespace(ioctl=_nothing, flock=_nothing, LOCK_UN=0)
        yield "agent.service.notify.daemon", self

    def at(self, device: str) -> Line:
        """The line of a device."""
        return next(line for line in self.lines if line.device == device)

    def power_off(self) -> None:
        """What the kernel and systemd had is gone."""
        self.forget_stored()
        for line in self.lines:
            line.open_by.clear()
            line.discard()

    def _select(
        self, waits_for: Sequence[int], _write: object, _error: object, timeout_s: float
    ) -> tuple[list[int], list[int], list[int]]:
        fd = waits_for[0]
        line = next(line for line in self.lines if fd in line.open_by)
        if not line.buffer and timeout_s > 0:
            after_us, data = line.incoming or (max(1, int(timeout_s * 1e6)), b"")
            self.machine.advance_us(after_us)
            line.incoming = None
            line.arrive(data)
        is_readable = bool(line.buffer) or not line.is_plugged
        return ([fd] if is_readable else []), [], []

    # --- systemd.daemon ---------------------------------------------------------------------------

    def notify(self, text: str, fds: Sequence[int] = ()) -> None:
        """sd_notify(3) with descriptors."""
        fields = dict(line.partition("=")[::2] for line in text.split("\n"))
        name = fields.get("FDNAME", "")
        if "FDSTORE" in fields and self.has_store:
            self._stored[name] = os.dup(fds[0])
        elif "FDSTOREREMOVE" in fields and name in self._stored:
            os.close(self._stored.pop(name))
        self._note_stored()

    def listen_fds_with_names(self, *, unset_environment: bool) -> dict[int, str]:
        """What systemd passes to a new process."""
        del unset_environment
        return {os.dup(fd): name for name, fd in self._stored.items()}

    def forget_stored(self) -> None:
        """The service was stopped, not restarted."""
        for fd in self._stored.values():
            os.close(fd)
        self._stored.clear()
        self._note_stored()

    def _note_stored(self) -> None:
        stored = {os.fstat(fd).st_rdev for fd in self._stored.values()}
        for line in self.lines:
            line.is_stored = Path(line.device).stat().st_rdev in stored


class _Serial:
    """What agent.readers.port uses of pyserial's port."""

    all_lines: Lines
    keeps_input = False
    port = ""

    def __init__(self, **_: object) -> None:
        self.dtr = self.rts = True

    def open(self) -> None:
        line = next((line for line in self.all_lines.lines if line.device == self.port), None)
        if line is None or not line.is_plugged:
            raise OSError(errno.ENOENT, "No such file or directory", self.port)
        self._line = line
        self._fd = os.open(self.port, os.O_RDWR | os.O_CLOEXEC)
        line.open_by.add(self._fd)
        if not self.keeps_input:
            line.discard()

    def fileno(self) -> int:
        return self._fd

    def read(self, size: int) -> bytes:
        if not self._line.is_plugged:
            raise OSError(errno.EIO, "device reports readiness to read but returned no data")
        data = bytes(self._line.buffer[:size])
        del self._line.buffer[:size]
        if not self._line.buffer:
            self._line.read_us |= dict.fromkeys(self._line.unread, self.all_lines.machine.true_us)
            self._line.unread.clear()
            if self._line.has_chatter:
                self._line.has_chatter = False
                self._line.quiet_us = self.all_lines.machine.true_us + 200_000
        return data

    def close(self) -> None:
        self._line.open_by.discard(self._fd)
        os.close(self._fd)
        if not self._line.is_open:
            self._line.discard()


def _nothing(*_: object) -> int:
    return 0
