"""Reserved disk space: freed when the disk is full, so that the outbox can still write."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from agent.guarded_file import open_guarded
from agent.log.message_ids import MessageId, fields
from agent.outbox.disk_room import free_bytes

_log = logging.getLogger(__name__)

RESERVE_FILE = "reserve"
# The reserve is refilled only when this multiple of its size is free.
_ROOM = 3
# Without a reserve, or with a small one: this much free space ends the state "the disk was full".
_LEAST_BYTES = 1_000_000


class Reserve:
    """A file of `size` bytes whose blocks are allocated."""

    def __init__(self, state_dir: Path, size: int) -> None:
        self._path = state_dir / RESERVE_FILE
        self._size = size
        self.gave_way = False  # the disk was full, and the reserve has not been refilled since

    def fill(self) -> None:
        """Allocate the whole reserve if the disk has room; a failure is logged, not raised."""
        try:
            is_whole = self._size == 0 or (self._allocated() == self._size)
            if is_whole and not self.gave_way:
                return
            if free_bytes(self._path.parent) < _ROOM * max(self._size, _LEAST_BYTES if is_whole else 0):
                return
            if is_whole:
                self.gave_way = False
                return
            fd = open_guarded(self._path, os.O_RDWR | os.O_CREAT)
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
        """Free half of the reserve for swipes; the rest is for storing what was committed."""
        self.gave_way = True
        try:
            if self._allocated() <= self._size // 2:
                return
            fd = open_guarded(self._path, os.O_RDWR)
            try:
                os.ftruncate(fd, self._size // 2)
            finally:
                os.close(fd)
        except OSError:
            return  # absent, or a disk without any change possible: the outbox raises its own error
        _log.error(
            "outbox: the disk is full, half of the reserve of %d bytes was freed; make room: df -h",
            self._size,
            extra=fields(MessageId.RESERVE_FREED),
        )

    def free_rest(self) -> None:
        """Free the whole reserve: without a stored committed position nothing could be purged."""
        self.gave_way = True
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _allocated(self) -> int:
        """The size of the file; 0 if there is none. Raises OSError."""
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return 0
