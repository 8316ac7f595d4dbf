"""Open ports in systemd's descriptor store, so that what readers send during a restart is read after it."""

from __future__ import annotations

import os

from agent.readers.port import leads_to
from agent.service import notify


class StoredPorts:
    """Open ports in systemd's descriptor store (FileDescriptorStoreMax=), by the reader's id.

    Between two lives of the agent it keeps them open; when a device goes away, it lets go by itself.
    """

    def __init__(self) -> None:
        """Take over what the service manager hands to this process. Once a process."""
        handed = notify.stored_descriptors()
        self._left = set(handed)
        self._names = set(handed.values())

    def of(self, reader_id: str, device: str) -> StoredPort:
        """The place of one reader.

        It finds its device there whatever the reader was called before: what was sent meanwhile came
        from the device.
        """
        left = next((fd for fd in self._left if leads_to(fd, device)), None)
        self._left.discard(left)
        self._names.discard(reader_id)
        return StoredPort(reader_id, left)

    def clear_others(self) -> None:
        """Close the ports that the configuration no longer has, and drop the names of its readers."""
        while self._left:
            os.close(self._left.pop())
        while self._names:
            StoredPort(self._names.pop(), None).clear()


class StoredPort:
    """One reader's place in the store: an agent.readers.port.FdStore."""

    def __init__(self, reader_id: str, left: int | None) -> None:
        self._name = f"FDNAME={reader_id}"
        self._left = left

    def take(self) -> int | None:
        """The descriptor that the last process left, once; the caller closes it."""
        left, self._left = self._left, None
        return left

    def put(self, fd: int) -> None:
        """Hold a duplicate of this one, instead of any before it."""
        self.clear()
        notify.tell("FDSTORE=1", self._name, fds=[fd])

    def clear(self) -> None:
        """Hold nothing any more."""
        notify.tell("FDSTOREREMOVE=1", self._name)
