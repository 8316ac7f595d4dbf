"""Records of the outbox found in the bytes of its file without a B-tree.

Rows, state records and generations are proved by their checksums; a hold has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any, NamedTuple

from agent.outbox import holds
from agent.outbox.records import Generation, StateRecord, number_in, row_checksum
from agent.outbox.timing.timestamps import StoredRow
from agent.rows import FoundRow

# The sizes in which SQLite stores an integer, the most frequent first. One of no bytes is NULL, 0 or 1.
_TIME_SIZES = (8, 0, 6, 4, 3, 2, 1)
_BOOT_TIME_SIZES = (6, 4, 8, 3, 0, 2, 1)
_BOOT_SIZES = (0, 1, 2)
_CHECKSUM_SIZES = (6, 8)
_NO_BYTES: tuple[int | None, ...] = (1, None, 0)

# The headers of records: their size, NULL for the rowid, then the types of the columns after it.
# State: committed_n, its chain, the machine id, and others.
_STATE_HEADER = re.compile(rb"[\x15-\x1e]\x00[\x01-\x09][\x0d\x2d\x4d][\x0d\x2d]")
# Generation: the outbox id, the chain before it, the checksum. Its first_n is the rowid, before the header.
_GENERATION_HEADER = re.compile(rb"\x05\x00\x25[\x1b\x25\x2d\x4d][\x01-\x06\x08\x09]")
# Hold: its kind, first_n and last_n, the reason, whether it is released. Its id is the rowid.
_HOLD_HEADER = re.compile(
    rb"(?:\x07\x00[\x1d\x1f][\x01-\x06\x09]{2}[\x0d-\x7f]"
    rb"|\x08\x00[\x1d\x1f][\x01-\x06\x09]{2}[\x81-\xff][\x00-\x7f])[\x08\x09]"
)
_LONGEST_RECORD_BYTES = 4_000
_LONGEST_ROWID_BYTES = 5
MOST_NAMED_N = 2**30  # a hold or replay that names a higher number is that of a changed byte
_INTEGER_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
_FIRST_TEXT = 13


class RowReader:
    """Reads the columns that lie around a row.

    They are read by trying the sizes that they can have: the header of the record, which has them, is partly
    overwritten when a row is deleted. The sizes of the row before come first, as most rows have the same.
    """

    def __init__(self) -> None:
        self._sizes = list(product(_CHECKSUM_SIZES, _BOOT_SIZES, _BOOT_TIME_SIZES, _TIME_SIZES))

    def stored(self, found: FoundRow) -> StoredRow | None:
        """The row with its columns, if they are whole: the checksum proves all of them."""
        for place, sizes in enumerate(self._sizes):
            stored = _stored(found, *sizes)
            if stored is not None:
                if place:
                    self._sizes.insert(0, self._sizes.pop(place))
                return stored
        return None


def _stored(
    found: FoundRow, checksum_size: int, boot_size: int, boot_us_size: int, trusted_size: int
) -> StoredRow | None:
    row, chain, after = found.row, found.parsed.chain, found.after
    begin = boot_size + boot_us_size
    checksum = int.from_bytes(after[begin : begin + checksum_size])
    for boot, boot_us, trusted_us in product(
        _integers(after[:boot_size]),
        _integers(after[boot_size:begin]),
        _integers(found.before[len(found.before) - trusted_size :]),
    ):
        if checksum == row_checksum(n := number_in(checksum), chain, trusted_us, row, boot, boot_us):
            return StoredRow(n, chain, trusted_us, row, boot, boot_us, checksum)
    return None


def _integers(content: bytes) -> tuple[int | None, ...]:
    return (int.from_bytes(content, signed=True),) if content else _NO_BYTES


class FoundHold(NamedTuple):
    """The columns of a hold."""

    id: int | None  # None: a new one
    kind: str
    first_n: int
    last_n: int
    reason: str
    released: int


def records(pieces: Iterable[bytes]) -> Iterator[StateRecord | Generation | FoundHold | None]:
    """Every whole record of these kinds in the bytes of a file, of whatever age; `pieces` follow each other.

    None after each piece, so that the caller can pause.
    """
    carried = b""
    for piece in pieces:
        content = carried + piece
        yield from filter(None, _states(content))
        yield from filter(None, _generations(content))
        yield from _holds(content)
        yield None
        carried = content[-_LONGEST_RECORD_BYTES:]


def _states(content: bytes) -> Iterator[StateRecord | None]:
    for header in _STATE_HEADER.finditer(content):
        values, _ = _record_at(content, header.start())
        yield StateRecord.checked(values[1:]) if values else None


def _generations(content: bytes) -> Iterator[Generation | None]:
    for header in _GENERATION_HEADER.finditer(content):
        values = _cell_at(content, header.start())
        yield Generation.checked(values) if values else None


def _holds(content: bytes) -> Iterator[FoundHold]:
    for header in _HOLD_HEADER.finditer(content):
        values: tuple[Any, ...] = _cell_at(content, header.start())
        if values and holds.is_hold(values) and values[3] < MOST_NAMED_N:
            yield FoundHold(*values)


def _cell_at(content: bytes, at: int) -> tuple[object, ...]:
    """The rowid and the values after it of the cell whose record begins at `at`; () if its size is wrong."""
    values, end = _record_at(content, at)
    rowid, begin = _varint_before(content, at)
    size, _ = _varint_before(content, begin)
    return (rowid, *values[1:]) if size == end - at else ()


def _varint_before(content: bytes, end: int) -> tuple[int, int]:
    """The variable-length integer that ends there, and where it begins; a byte below 0x80 is before it."""
    at = max(0, end - 1)
    while at > max(0, end - _LONGEST_ROWID_BYTES) and content[at - 1] >= 0x80:  # noqa: PLR2004 - as _varint()
        at -= 1
    return _varint(content, at)[0], at


def _record_at(content: bytes, at: int) -> tuple[tuple[object, ...], int]:
    """The values of the SQLite record whose header begins at `at`, and where it ends; () if it is none.

    Only integers and texts are values of a record here.
    """
    end = at + content[at]
    types, begin = [], at + 1
    while begin < end:
        kind, begin = _varint(content, begin)
        types.append(kind)
    values: list[object] = []
    for kind in types:
        size = _INTEGER_SIZES.get(kind, (kind - _FIRST_TEXT) // 2)
        value = content[begin : begin + size]
        begin += size
        if len(value) < size or (kind not in _INTEGER_SIZES and (kind < _FIRST_TEXT or kind % 2 == 0)):
            return (), begin
        if kind in _INTEGER_SIZES:
            values.append(int.from_bytes(value, signed=True) if size else (None, 0, 1)[max(0, kind - 7)])
        else:
            values.append(value.decode("utf-8", "replace"))
    return tuple(values), begin


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer of at most nine bytes, and where it ends."""
    value = 0
    for byte in content[at : at + 8]:
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more bytes follow
            break
    return value, at
