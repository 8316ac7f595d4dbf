"""Serial ports in systemd's descriptor store: data received during a restart is read after it."""

from __future__ import annotations

import os

from agent.readers.port import leads_to
from agent.service import notify


class StoredPorts:
    """The open ports in systemd's descriptor store (FileDescriptorStoreMax=), named by reader id.

    systemd keeps them open while the service restarts, and drops one whose device is unplugged.
    """

    def __init__(self) -> None:
        """Take over the descriptors passed to this process. Create one instance per process."""
        stored = notify.stored_descriptors()
        self._left = set(stored)
        self._names = set(stored.values())

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
