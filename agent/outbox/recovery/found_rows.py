"""Rows of a damaged file that no B-tree reaches, and the numbers that they get in the new file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from agent import rows
from agent.outbox.records import row_checksum
from agent.outbox.recovery.damaged_file import DamagedFile
from agent.outbox.recovery.record_bytes import RowReader
from agent.outbox.timing.timestamps import StoredRow
from agent.rows import FoundRow, ParsedRow

# Rows without a number are compared with every gap: more of them than a few damaged pages hold are not.
_MOST_UNNUMBERED = 1_000


@dataclass(slots=True)
class FoundRows:
    """Sorts what is found by its bytes: rows with a number are returned, the others are kept for linked().

    `bases` maps the outbox ids of schemas 1-3 to n - seq. A row of another such id may be a copy of a row
    that has another number by now. `is_known`: whether all rows of a page are in the new file.
    """

    damaged: DamagedFile
    bases: dict[str, int]
    is_known: Callable[[bytes], bool]
    unnumbered: dict[str, FoundRow] = field(default_factory=dict)

    def numbered(self) -> Iterator[StoredRow | None]:
        """The rows whose numbers their checksums or their seqs give; None after each piece of the bytes."""
        reader = RowReader()
        for found in self.damaged.scanned(self.is_known):
            if found is None:
                yield None
                continue
            parsed = found.parsed
            if parsed.outbox_id is None:
                stored = reader.stored(found)
                if stored is not None:
                    yield stored
                elif len(self.unnumbered) < _MOST_UNNUMBERED:
                    self.unnumbered[parsed.event_id] = found
            elif parsed.seq is not None and parsed.outbox_id in self.bases:
                n = self.bases[parsed.outbox_id] + parsed.seq
                yield StoredRow(n, parsed.chain, None, found.row, None, None, None)

    def linked(self, ends: Iterable[tuple[int, str]]) -> Iterator[StoredRow | None]:
        """The rows without a number that follow a row by its chain, as far as that reaches.

        `ends` are number and chain of rows after which a number is missing; None after each of them. Other
        columns are derived from the row: the chain proves it.
        """
        boots = {boot_id: number for number, boot_id, *_ in self.damaged.boots}
        for n, chain in ends:
            while found := next((f for f in self.unnumbered.values() if f.parsed.follows(chain)), None):
                del self.unnumbered[found.parsed.event_id]
                n, chain = n + 1, found.parsed.chain  # noqa: PLW2901 - the row that the next one follows
                yield _derived(n, found, boots)
            yield None


def held_when_read(row: StoredRow) -> StoredRow:
    """A row that is not as it was stored, also where its checksum is missing: it is held, not sent."""
    return row if row.checksum is not None else row._replace(checksum=0)


def _derived(n: int, found: FoundRow, boots: dict[str, int]) -> StoredRow:
    read = rows.recorded_time(found.row)
    boot = next((number for boot_id, number in boots.items() if read.is_of_boot(boot_id)), None)
    trusted_us = read.wall_us if read.synced else None
    columns = (n, found.parsed.chain, trusted_us, found.row, boot, read.boot_us)
    return StoredRow(*columns, row_checksum(*columns))


class RenumberedRows:
    """Rows of schemas 1-3 where no number is left: committed ones first, then by id and seq.

    Numbers depend on nothing but the content of the damaged file.
    """

    def __init__(self, damaged: DamagedFile) -> None:
        self._damaged = damaged
        self.committed = 0  # the number of the last committed row, after rows()

    def rows(self) -> Iterator[StoredRow | None]:
        """The rows, in the order of the file; None after each piece of the bytes.

        Raises sqlite3.Error where a temporary file has no room.
        """
        marks = yield from self._damaged.marks()
        with contextlib.closing(sqlite3.connect("", isolation_level=None)) as keys:  # a temporary file
            keys.execute(
                """CREATE TABLE found(is_pending INTEGER, outbox_id TEXT, seq INTEGER,
                                      event_id TEXT PRIMARY KEY) WITHOUT ROWID"""
            )
            for found in self._damaged.scanned():
                if found is None:
                    yield None
                    continue
                keys.executemany(
                    "INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?)",
                    (
                        (seq > marks.get(outbox_id, 0), outbox_id, seq, found.parsed.event_id)
                        for outbox_id, seq in _old_position(found.parsed)
                    ),
                )
            keys.execute("CREATE TABLE numbers(event_id TEXT PRIMARY KEY, n INTEGER) WITHOUT ROWID")
            keys.execute(
                """INSERT INTO numbers SELECT event_id,
                     row_number() OVER (ORDER BY is_pending, outbox_id, seq) FROM found"""
            )
            (self.committed,) = keys.execute("SELECT count(*) FROM found WHERE NOT is_pending").fetchone()
            for found in self._damaged.scanned():
                if found is None:
                    yield None
                    continue
                parsed, row, *_ = found
                number = keys.execute("SELECT n FROM numbers WHERE event_id = ?", (parsed.event_id,))
                for (n,) in number.fetchall():
                    yield StoredRow(n, parsed.chain, None, row, None, None, None)


def _old_position(parsed: ParsedRow) -> list[tuple[str, int]]:
    return [(parsed.outbox_id, parsed.seq)] if parsed.outbox_id is not None and parsed.seq is not None else []
