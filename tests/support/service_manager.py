"""A stand-in for systemd: notify socket, watchdog and the journal on stderr, with real sockets."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.needs import MOUNTS, SYSTEMD_PYTHON, mount_namespace, needs

_LARGEST = 1 << 20
_POLL_S = 0.1
# Run in its own mount namespace, in which the journal's directory is ours. `exec`, so that the pid stays.
_OWN_JOURNAL = """
mount -t tmpfs tmpfs /run && mkdir -p /run/systemd/journal
mount --bind "$0" /run/systemd/journal && exec "$@"
"""


class ServiceManager:
    """Starts a process as systemd starts a service, and receives its notifications."""

    def __init__(
        self, directory: Path, *, watchdog_s: float | None = None, has_journal: bool = False
    ) -> None:
        """Skips the test where `has_journal` is wanted and this machine has none."""
        if has_journal:
            needs(SYSTEMD_PYTHON, MOUNTS)
        self.directory = directory
        self.told: list[str] = []
        self.entries: list[dict[str, str]] = []
        self.datagrams: list[bytes] = []
        self._watchdog_s = watchdog_s
        self._journal = directory / "journal" if has_journal else None
        self._notify = directory / "notify"
        self._over = threading.Event()
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as ends:
            self.directory.mkdir(parents=True, exist_ok=True)
            listeners = [_listener(ends, self._notify, self._hear, self._over)]
            if self._journal is not None:
                self._journal.mkdir()
                listeners.append(_listener(ends, self._journal / "socket", self._write, self._over))
            for listener in listeners:
                listener.start()
                ends.callback(listener.join)
            ends.callback(self._over.set)
            self._ends = ends.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ends.close()

    def command(self, words: Sequence[str]) -> list[str]:
        """The command line that runs these words as a service."""
        if self._journal is None:
            return list(words)
        return mount_namespace("sh", "-c", _OWN_JOURNAL, str(self._journal), *words)

    def environment(self, stderr: int) -> Mapping[str, str]:
        """What the service finds in its environment; `stderr` is its standard error."""
        told = {"NOTIFY_SOCKET": str(self._notify)}
        if self._watchdog_s is not None:
            told["WATCHDOG_USEC"] = str(int(self._watchdog_s * 1e6))
        if self._journal is not None:
            stat = os.fstat(stderr)
            told["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"
        return {**os.environ, **told}

    def heard(self, field: str) -> int:
        """How often the service sent this notification."""
        return sum(field in told.splitlines() for told in list(self.told))

    def logged(self, **wanted: str) -> list[dict[str, str]]:
        """The journal's entries that have these fields."""
        return [entry for entry in list(self.entries) if wanted.items() <= entry.items()]

    def _hear(self, datagram: bytes) -> None:
        self.told.append(datagram.decode())

    def _write(self, datagram: bytes) -> None:
        self.datagrams.append(datagram)
        self.entries.append(parse_entry(datagram))


def parse_entry(datagram: bytes) -> dict[str, str]:
    """One datagram of systemd's "Native Journal Protocol".

    A field is `NAME=value` and a line end, or, where the value has line ends itself, `NAME`, a line end,
    the value's length as 64 bits (little endian), the value, and a line end.
    """
    entry: dict[str, str] = {}
    while datagram:
        line, _, rest = datagram.partition(b"\n")
        name, is_text, value = line.partition(b"=")
        if not is_text:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        entry[name.decode("ascii")] = value.decode()
        datagram = rest
    return entry


def _listener(
    ends: ExitStack, path: Path, hear: Callable[[bytes], None], over: threading.Event
) -> threading.Thread:
    """Reads without delay, for a sender waits when a few datagrams are unread. `ends` closes its socket."""
    receiver = ends.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    receiver.bind(str(path))
    receiver.settimeout(_POLL_S)

    def listen() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                hear(receiver.recv(_LARGEST))

    return threading.Thread(target=listen, daemon=True)
