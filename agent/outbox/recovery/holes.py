"""Gives the space of a quarantined file back to the disk, page by page, once its rows are moved."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path

from agent.guarded_file import open_guarded
from agent.outbox.database import PAGE_BYTES
from agent.outbox.recovery.sectors import PIECE_BYTES, SectorReader

# fallocate(2): FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE
_PUNCH_HOLE = 0x01 | 0x02
# The file format of SQLite: the type of a page with the rows of a table, the size of its header, and where
# the header has the number of rows.
_LEAF, _HEADER_BYTES, _COUNT_AT = 0x0D, 8, 3
_ROW_MARK = b'"event_id":"'


class Holes:
    """Punches holes into one quarantined file under pages of which every row is in the new file.

    Other pages are never touched. A pass goes on where the last one has ended.
    """

    def __init__(self, path: Path, are_moved: Callable[[list[int]], bool]) -> None:
        """`are_moved`: whether all rows with these numbers are in the new file, on disk."""
        self._path = path
        self._are_moved = are_moved
        self._piece = 0

    def punch(self, wanted_bytes: int) -> int:
        """Free about `wanted_bytes`, in at most one pass; returns how many. Raises OSError.

        OSError also for a file system without holes (FAT).
        """
        freed, pieces = 0, -(-SectorReader(self._path).size // PIECE_BYTES)
        fd = open_guarded(self._path, os.O_RDWR)
        try:
            for _ in range(pieces):
                freed += self._punch_piece(fd, self._piece % pieces * PIECE_BYTES)
                self._piece += 1
                if freed >= wanted_bytes:
                    break
        finally:
            os.close(fd)
        return freed

    def _punch_piece(self, fd: int, begin: int) -> int:
        before = os.fstat(fd).st_blocks
        try:
            content = os.pread(fd, PIECE_BYTES, begin)
        except OSError:
            return 0  # an unreadable sector: nothing near it is given back
        for at in range(0, len(content) - PAGE_BYTES + 1, PAGE_BYTES):
            numbers = row_numbers(content[at : at + PAGE_BYTES])
            if numbers and self._are_moved(numbers):
                _punch(fd, begin + at)
        return max(0, before - os.fstat(fd).st_blocks) * 512


def row_numbers(page: bytes) -> list[int]:
    """The numbers of the rows in a page of swipes; empty for any other page, and for a damaged one."""
    if len(page) < PAGE_BYTES or page[0] != _LEAF:
        return []
    numbers = []
    for index in range(int.from_bytes(page[_COUNT_AT : _COUNT_AT + 2])):
        pointer = _HEADER_BYTES + 2 * index
        if pointer + 2 > len(page):
            return []
        at = int.from_bytes(page[pointer : pointer + 2])
        size, at = _varint(page, at)
        n, at = _varint(page, at)
        if at + size > len(page) or _ROW_MARK not in page[at : at + size]:
            return []
        numbers.append(n)
    return numbers


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """A number of at most eight bytes, and where it ends; the end of the page where there is none."""
    value = 0
    for byte in page[at : at + 8]:
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more bytes follow
            return value, at
    return 0, len(page)


# fallocate64: the offset has 64 bits, also on a 32-bit system.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def _punch(fd: int, at: int) -> None:
    if _fallocate(fd, _PUNCH_HOLE, at, PAGE_BYTES) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
