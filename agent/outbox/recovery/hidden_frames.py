"""Finds commits in a write-ahead log that SQLite passes over, because a frame before them has changed.

Theory of operation

After a crash SQLite reads the log from its beginning up to the first frame whose checksum is wrong, which it
takes for the end of what was written. A frame that a worn card has changed hides every commit after it,
without an error. The format (https://sqlite.org/fileformat2.html#walformat): a header with two random salts,
then frames, each with the salts of its log, the size of the database if it ends a transaction, and a checksum
over everything before it. It follows from the stored checksum of the frame before: a frame proves itself
although others before it are damaged.

Frames of an earlier log, which is overwritten in place, have other salts. The frames of one transaction that
was not flushed when the power failed may be there in any order, so one hidden commit proves nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agent.outbox.database import PAGE_BYTES

_HEADER = struct.Struct(">IIII8sII")  # magic, version, page size, number, salts, checksum
_FRAME = struct.Struct(">II8sII")  # page, size of the database after a commit, salts, checksum
_MAGIC = 0x377F0682  # one more: the words of a checksum are big-endian
_SUMMED_BYTES = 24  # of the header
_MASK = 0xFFFFFFFF
_TORN_COMMITS = 1

Checksum = tuple[int, int]


class _Frame(NamedTuple):
    salts: bytes
    is_commit: bool
    checksum: Checksum
    summed: bytes  # what the checksum adds to that of the frame before


def hidden_commits(log: Path) -> int:
    """How many transactions of this log SQLite would pass over; 0 if they can be one that was never flushed.

    0, too, for a log that does not exist or cannot be read: reading it fails in SQLite as well.
    """
    try:
        content = log.read_bytes()
    except OSError:
        return 0
    if len(content) < _HEADER.size:
        return 0
    magic, _, page_bytes, _, salts, *checksum = _HEADER.unpack_from(content)
    order = ">" if magic & 1 else "<"
    if magic & ~1 == _MAGIC and _sum(content[:_SUMMED_BYTES], (0, 0), order) == tuple(checksum):
        hidden = _hidden(content, page_bytes, order, salts, (checksum[0], checksum[1]))
    else:  # SQLite passes over the whole log
        hidden = max(_hidden(content, PAGE_BYTES, order, None, None) for order in "<>")
    return hidden if hidden > _TORN_COMMITS else 0


def _hidden(content: bytes, page_bytes: int, order: str, salts: bytes | None, before: Checksum | None) -> int:
    """The commits after a frame that does not follow from the one before; None: the header is damaged."""
    hidden, is_hidden = 0, before is None
    for frame in _frames(content, page_bytes):
        salts = salts or frame.salts
        is_whole = before is not None and _sum(frame.summed, before, order) == frame.checksum
        if frame.salts == salts and is_whole:
            hidden += is_hidden and frame.is_commit
        else:
            is_hidden = True
        before = frame.checksum
    return hidden


def _frames(content: bytes, page_bytes: int) -> Iterator[_Frame]:
    size = _FRAME.size + page_bytes
    for begin in range(_HEADER.size, len(content) - size + 1, size):
        _, pages, salts, *checksum = _FRAME.unpack_from(content, begin)
        summed = content[begin : begin + 8] + content[begin + _FRAME.size : begin + size]
        yield _Frame(salts, pages > 0, (checksum[0], checksum[1]), summed)


def _sum(data: bytes, before: Checksum, order: str) -> Checksum:
    """SQLite's checksum of these bytes, continued."""
    first, second = before
    for even, odd in struct.iter_unpack(f"{order}II", data):
        first = (first + even + second) & _MASK
        second = (second + odd + first) & _MASK
    return first, second
