"""Records of the outbox found in the bytes of its file without a B-tree; each is proved by its checksum."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import product

from agent.outbox.records import StateRecord, number_in, row_checksum
from agent.outbox.timing.timestamps import StoredRow
from agent.rows import FoundRow

# The sizes in which SQLite stores an integer, the most frequent first. One of no bytes is NULL, 0 or 1.
_TIME_SIZES = (8, 0, 6, 4, 3, 2, 1)
_BOOT_TIME_SIZES = (6, 4, 8, 3, 0, 2, 1)
_BOOT_SIZES = (0, 1, 2)
_CHECKSUM_SIZES = (6, 8)
_NO_BYTES: tuple[int | None, ...] = (1, None, 0)

# The header of the state record: its size, NULL for the rowid, the types of committed_n, chain, machine id.
_STATE_HEADER = re.compile(rb"[\x15-\x1e]\x00[\x01-\x09][\x0d\x2d\x4d][\x0d\x2d]")
_LONGEST_STATE_BYTES = 4_000
_INTEGER_SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}
_FIRST_TEXT = 13


def stored_row(found: FoundRow) -> StoredRow | None:
    """The row with the columns that lie around it, if they are whole: the checksum proves all of them.

    The columns are read by trying the sizes that they can have: the header of the record, which has them, is
    partly overwritten when a row is deleted.
    """
    row, chain, after = found.row, found.parsed.chain, found.after
    for sizes in product(_CHECKSUM_SIZES, _BOOT_SIZES, _BOOT_TIME_SIZES, _TIME_SIZES):
        checksum_size, boot_size, boot_us_size, trusted_size = sizes
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


def state_records(pieces: Iterable[bytes]) -> Iterator[StateRecord | None]:
    """Every whole state record in the bytes of a file, of whatever age; `pieces` follow each other.

    None after each piece, so that the caller can pause.
    """
    carried = b""
    for piece in pieces:
        content = carried + piece
        for header in _STATE_HEADER.finditer(content):
            values = _record_at(content, header.start())
            record = StateRecord.checked(values[1:]) if values else None
            if record is not None:
                yield record
        yield None
        carried = content[-_LONGEST_STATE_BYTES:]


def _record_at(content: bytes, at: int) -> tuple[object, ...] | None:
    """The values of the SQLite record whose header begins at `at`; integers and texts, else None."""
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
            return None
        if kind in _INTEGER_SIZES:
            values.append(int.from_bytes(value, signed=True) if size else (None, 0, 1)[max(0, kind - 7)])
        else:
            values.append(value.decode("utf-8", "replace"))
    return tuple(values)


def _varint(content: bytes, at: int) -> tuple[int, int]:
    """A variable-length integer of at most nine bytes, and where it ends."""
    value = 0
    for byte in content[at : at + 8]:
        at += 1
        value = value << 7 | byte & 0x7F
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more bytes follow
            break
    return value, at
