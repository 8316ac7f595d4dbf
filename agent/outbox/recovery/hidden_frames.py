"""Finds commits in a write-ahead log that SQLite passes over, because a frame before them has changed.

Theory of operation

After a crash SQLite reads the log from its beginning up to the first frame whose checksum is wrong, which it
takes for the end of what was written. A frame that a worn card has changed hides every commit after it,
without an error. The format (https://sqlite.org/fileformat2.html#walformat): a header with two random salts,
then frames, each with the salts of its log, the size of the database if it ends a transaction, and a checksum
over everything before it. The checksum of a frame can be computed from the one stored in the frame before: so
a frame can be checked although others before it have changed.

What a power cut leaves is no damage:

- Frames that were not flushed may be there in any order. They belong to one durable transaction, the newest,
  and to those before it that are not durable. A durable one ends with its last frame written twice, so that
  no other shares its last sector (psow=0 in database.py), and is flushed before anything follows it. So
  something has changed if a frame of another transaction follows a hidden durable one. No transaction that is
  not durable writes one page alone and unchanged, which would look like the frame written twice.
- A log whose pages are all in the database file is overwritten from its beginning. Where its header was not
  written whole, or not yet, all of it is hidden; but then its pages are as in the file.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from agent.guarded_file import open_guarded
from agent.outbox.database import PAGE_BYTES

_HEADER = struct.Struct(">IIII8sII")  # magic, version, page size, number, salts, checksum
_FRAME = struct.Struct(">II8sII")  # page, size of the database after a commit, salts, checksum
_MAGIC = 0x377F0682  # one more: the words of a checksum are big-endian
_SUMMED_BYTES = 24  # of the header
_SUMMED_FRAME_BYTES = 8  # of the header of a frame
_MASK = 0xFFFFFFFF

Checksum = tuple[int, int]


class _Frame(NamedTuple):
    page: int
    is_commit: bool
    salts: bytes
    checksum: Checksum
    summed: bytes  # what the checksum adds to that of the frame before: page, size of the database, content

    def repeats(self, other: _Frame) -> bool:
        """Whether this is the end of a durable transaction: its last frame once more."""
        return self.is_commit and self.summed == other.summed


def hides_commits(database: Path) -> bool:
    """Whether SQLite, at the next start, would pass over flushed transactions in the log of this file.

    False, too, if one of the two does not exist or cannot be opened: SQLite reports that itself.
    """
    path = Path(os.path.realpath(database))  # as SQLite does; resolve() fails for a link to itself
    try:
        with _opened_to_read(path.with_name(path.name + "-wal")) as log:
            return _hides_commits(log, path)
    except OSError:
        return False


def _opened_to_read(path: Path) -> BinaryIO:
    return os.fdopen(open_guarded(path, os.O_RDONLY), "rb")


def _hides_commits(log: BinaryIO, database: Path) -> bool:
    header = log.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return False
    magic, _, _, _, salts, *words = _HEADER.unpack(header)
    checksum = (words[0], words[1])
    order = ">" if magic & 1 else "<"
    if magic & ~1 == _MAGIC and _continued_sum(header[:_SUMMED_BYTES], (0, 0), order) == checksum:
        return _Log(log, database, order).hides_commits(salts, checksum)
    # SQLite passes over the whole log, whose order of bytes is not known either.
    return any(_Log(log, database, order).hides_commits(None, None) for order in "<>")


class _Log:
    def __init__(self, log: BinaryIO, database: Path, order: str) -> None:
        self._log, self._database, self._order = log, database, order
        # Where the newest content of each page begins: in the frames that SQLite reads, in the hidden ones.
        self._visible: dict[int, int] = {}
        self._hidden: dict[int, int] = {}

    def hides_commits(self, salts: bytes | None, checksum: Checksum | None) -> bool:
        """`salts`, `checksum`: of the header; None if it is damaged."""
        is_hidden, is_durable, was_flushed = salts is None, False, False
        last: _Frame | None = None
        for number, frame in enumerate(self._frames()):
            is_whole = (
                checksum is not None
                and frame.page > 0  # space that was never written has the checksum of zeros
                # Without a header: of the first two frames that agree.
                and frame.salts == (salts or (last and last.salts))
                and _continued_sum(frame.summed, checksum, self._order) == frame.checksum
            )
            is_hidden = is_hidden or not is_whole
            if is_whole:
                salts = frame.salts
                (self._hidden if is_hidden else self._visible)[frame.page] = _content_at(number)
            if is_whole and is_hidden:
                is_repeated = last is not None and frame.repeats(last)
                was_flushed = was_flushed or (is_durable and not is_repeated)
                is_durable = is_durable or is_repeated
            checksum, last = frame.checksum, frame
        return was_flushed and self._are_some_lost()

    def _frames(self) -> Iterator[_Frame]:
        """All frames, up to a sector that cannot be read: SQLite reads to the first changed frame only."""
        self._log.seek(_HEADER.size)
        while len(content := self._next_bytes()) == _FRAME.size + PAGE_BYTES:
            page, pages, salts, *words = _FRAME.unpack_from(content)
            summed = content[:_SUMMED_FRAME_BYTES] + content[_FRAME.size :]
            yield _Frame(page, pages > 0, salts, (words[0], words[1]), summed)

    def _next_bytes(self) -> bytes:
        try:
            return self._log.read(_FRAME.size + PAGE_BYTES)
        except OSError:
            return b""

    def _are_some_lost(self) -> bool:
        """Whether the newest hidden content of a page is not what SQLite will read.

        Only here is the database opened: closing it ends all locks of this process on it (fcntl(2)), those of
        SQLite's other connections, too.
        """
        with _opened_to_read(self._database) as file:
            return any(self._seen(page, file) != self._hidden_content(page) for page in self._hidden)

    def _seen(self, page: int, file: BinaryIO) -> bytes:
        if page in self._visible:
            return _page_at(self._log, self._visible[page])
        return _page_at(file, (page - 1) * PAGE_BYTES)

    def _hidden_content(self, page: int) -> bytes:
        return _page_at(self._log, self._hidden[page])


def _content_at(number: int) -> int:
    """Where the page of a frame begins in the log."""
    return _HEADER.size + number * (_FRAME.size + PAGE_BYTES) + _FRAME.size


def _page_at(file: BinaryIO, place: int) -> bytes:
    return os.pread(file.fileno(), PAGE_BYTES, place)


def _continued_sum(data: bytes, before: Checksum, order: str) -> Checksum:
    """SQLite's checksum of these bytes, continued."""
    first, second = before
    for even, odd in struct.iter_unpack(f"{order}II", data):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return first, second
