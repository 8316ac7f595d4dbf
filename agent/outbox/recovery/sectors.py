"""Reads a file from a failing disk in pieces of bounded size, without the sectors that cannot be read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from agent.guarded_file import open_guarded

PIECE_BYTES = 1 << 20
# A piece that fails is read again in blocks of a page, a block that fails in the sectors of a disk.
_PARTS = (4096, 512)
# A file up to this size is read whole by samples(), a larger one in pieces at equal distances.
_SAMPLED_BYTES = 16 * PIECE_BYTES
# What a medium reports for a place that it cannot read.
_UNREADABLE = frozenset({errno.EIO, errno.EILSEQ, errno.ENODATA, errno.EBADMSG, errno.ENXIO})


class SectorReader:
    """The bytes of one file; sectors that cannot be read are zeros."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.unreadable_bytes = 0  # found by the last complete pass of pieces()

    def pieces(self) -> Iterator[bytes]:
        """The whole file in adjacent pieces of at most PIECE_BYTES. Raises OSError if it cannot be opened.

        Nothing for a file that does not exist. pread and no mapping: a mapped page that cannot be
        read ends the process with SIGBUS.
        """
        yield from self._pieces(PIECE_BYTES)

    def samples(self) -> Iterator[bytes]:
        """As pieces(), of a large file only some, with the last one: bytes between two pieces are missing."""
        yield from self._pieces(max(PIECE_BYTES, self.size // (_SAMPLED_BYTES // PIECE_BYTES)))

    @property
    def size(self) -> int:
        """The size of the file in bytes; 0 for a file that does not exist."""
        try:
            return self._path.stat().st_size
        except FileNotFoundError:
            return 0

    def _pieces(self, distance: int) -> Iterator[bytes]:
        self.unreadable_bytes = 0
        try:
            fd = open_guarded(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return
        try:
            size = os.fstat(fd).st_size
            begins = range(0, size, distance)
            for begin in begins if distance == PIECE_BYTES else (*begins, size - PIECE_BYTES):
                yield self._read(fd, begin, min(PIECE_BYTES, size - begin), _PARTS)
        finally:
            os.close(fd)

    def is_readable(self) -> bool:
        """Whether at least one sector of the file can be read."""
        size = 0
        for piece in self.pieces():
            size += len(piece)
            if self.unreadable_bytes < size:
                return True
        return False

    def _read(self, fd: int, begin: int, size: int, parts: tuple[int, ...]) -> bytes:
        try:
            return _read_all(fd, begin, size)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
        if not parts:
            self.unreadable_bytes += size
            return bytes(size)
        part, *smaller = parts
        end = begin + size
        return b"".join(
            self._read(fd, at, min(part, end - at), tuple(smaller)) for at in range(begin, end, part)
        )


def _read_all(fd: int, begin: int, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file: one pread may stop before a sector that fails."""
    content = bytearray()
    while len(content) < size:
        read = os.pread(fd, size - len(content), begin + len(content))
        if not read:
            break
        content += read
    return bytes(content)
