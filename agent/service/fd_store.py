"""What systemd's descriptor store keeps during a restart: serial ports, and when repeats were last read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from agent.readers.port import leads_to
from agent.service import notify

# The name of the descriptor of LastRepeats; no reader has it: a port's name is the reader's id.
_LAST_REPEATS = "last repeats"
_READ_BYTES = 65_536


class StoredPorts:
    """The open ports in systemd's descriptor store (FileDescriptorStoreMax=), named by reader id.

    systemd keeps them open while the service restarts, and drops one whose device is unplugged.
    """

    def __init__(self) -> None:
        """Take over the descriptors passed to this process. Create one instance per process."""
        stored = notify.stored_descriptors()
        self._left = set(stored)
        self._names = set(stored.values())
        fd = next((fd for fd, name in stored.items() if name == _LAST_REPEATS), None)
        self._left.discard(fd)
        self._names.discard(_LAST_REPEATS)
        self.last_repeats = LastRepeats(fd)

    def of(self, reader_id: str, device: str | None) -> StoredPort:
        """The stored port of one reader, matched by device rather than by name; empty without a device.

        A reader may have been renamed in the configuration; the buffered data belongs to the device.
        """
        left = next((fd for fd in self._left if device is not None and leads_to(fd, device)), None)
        self._left.discard(left)
        self._names.discard(reader_id)
        return StoredPort(reader_id, left)

    def clear_others(self) -> None:
        """Close and drop the stored ports that no configured reader uses."""
        while self._left:
            os.close(self._left.pop())
        while self._names:
            StoredPort(self._names.pop(), None).clear()


class StoredPort:
    """One reader's entry in the store; implements agent.readers.port.FdStore."""

    def __init__(self, reader_id: str, left: int | None) -> None:
        self._name = f"FDNAME={reader_id}"
        self._left = left

    def take(self) -> int | None:
        """The descriptor stored by the previous process, or None; returned once, the caller closes it."""
        left, self._left = self._left, None
        return left

    def put(self, fd: int) -> None:
        """Store a duplicate of `fd` in place of the present entry."""
        self.clear()
        notify.send("FDSTORE=1", self._name, fds=[fd])

    def clear(self) -> None:
        """Remove the entry."""
        notify.send("FDSTOREREMOVE=1", self._name)


class LastRepeats:
    """When each reader last read a repeat of a card, in memory that lasts as long as the stored ports.

    The outbox has the swipe only, not for how long its card was held, and a write of it for each repeat
    would wear the disk.
    """

    def __init__(self, fd: int | None) -> None:
        """`fd`: what the previous process stored; it is kept open. Create one instance per process."""
        self.before_us = _repeats_in(fd) if fd is not None else {}
        if fd is None:
            fd = os.memfd_create(_LAST_REPEATS)
            notify.send("FDSTORE=1", f"FDNAME={_LAST_REPEATS}", fds=[fd])
        self._fd = fd

    def write(self, repeats_us: Mapping[str, int | None]) -> None:
        """Replace the content: by reader, in microseconds of the boot-time clock."""
        content = json.dumps(repeats_us).encode() + b"\n"
        os.pwrite(self._fd, content, 0)


def _repeats_in(fd: int) -> dict[str, int]:
    try:
        found = json.loads(os.pread(fd, _READ_BYTES, 0).partition(b"\n")[0])
        return {name: us for name, us in found.items() if isinstance(us, int)}
    except (OSError, ValueError, AttributeError):
        return {}
