"""Space put by for the day the disk is full: freed then, so that the outbox can still write."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from agent.log.message_ids import MessageId, fields

_log = logging.getLogger(__name__)

RESERVE_FILE = "reserve"
# The reserve is made again only when so many times its size is free: a disk at its limit is left alone.
_ROOM = 3


class Reserve:
    """A file of `size` bytes that really occupies them."""

    def __init__(self, state_dir: Path, size: int) -> None:
        self._path = state_dir / RESERVE_FILE
        self._size = size
        self.gave_way = False  # the disk was full, and there has been no room for the reserve since

    def fill(self) -> None:
        """Make it whole, if the disk has room. Failing to is no fault: the disk is what it is."""
        try:
            if self._size == 0 or (self._path.exists() and self._path.stat().st_size == self._size):
                return
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < _ROOM * self._size:
                return
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, 0)
                os.posix_fallocate(fd, 0, self._size)
            finally:
                os.close(fd)
            self.gave_way = False
        except OSError as error:
            _log.warning("outbox: no reserve for a full disk: %s", error.strerror)
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def free(self) -> None:
        """Give half of its space to swipes; the rest is for writing down what became of them."""
        self.gave_way = True
        try:
            if self._path.stat().st_size <= self._size // 2:
                return
            os.truncate(self._path, self._size // 2)
        except OSError:
            return  # not there, or a disk that takes no change at all, which the outbox will tell itself
        _log.error(
            "outbox: the disk is full, half of the reserve of %d bytes was freed; make room: df -h",
            self._size,
            extra=fields(MessageId.RESERVE_FREED),
        )

    def free_rest(self) -> None:
        """Give all of it: without a note of what was committed, nothing could ever be purged."""
        self.gave_way = True
        with contextlib.suppress(OSError):
            self._path.unlink()
