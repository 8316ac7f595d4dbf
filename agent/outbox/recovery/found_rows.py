"""Rows of a damaged file that no B-tree reaches: their numbers, and their insertion into the new file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field

from agent import rows
from agent.outbox.records import row_checksum
from agent.outbox.recovery.damaged_file import DamagedFile
from agent.outbox.recovery.record_bytes import stored_row
from agent.outbox.timing.timestamps import STORED, StoredRow
from agent.rows import FoundRow, ParsedRow

INSERT = f"INSERT OR IGNORE INTO swipes({STORED}) VALUES (?, ?, ?, ?, ?, ?, ?)"
# Rows without a number are compared with every gap: more of them than a few damaged pages hold are not.
_MOST_UNNUMBERED = 1_000


@dataclass(slots=True)
class FoundRows:
    """Sorts what is found by its bytes: rows with a number are inserted, the others are kept for link().

    `bases` maps the outbox ids of schemas 1-3 to n - seq. A row of another such id may be a copy of a row
    that has another number by now.
    """

    damaged: DamagedFile
    bases: dict[str, int]
    unnumbered: dict[str, FoundRow] = field(default_factory=dict)

    def numbered(self) -> Iterator[StoredRow]:
        """The rows whose numbers their checksums or their seqs give."""
        for found in self.damaged.scanned():
            parsed = found.parsed
            if parsed.outbox_id is None:
                stored = stored_row(found)
                if stored is not None:
                    yield stored
                elif len(self.unnumbered) < _MOST_UNNUMBERED:
                    self.unnumbered[parsed.event_id] = found
            elif parsed.seq is not None and parsed.outbox_id in self.bases:
                n = self.bases[parsed.outbox_id] + parsed.seq
                yield StoredRow(n, parsed.chain, None, found.row, None, None, None)

    def link(self, connection: sqlite3.Connection) -> None:
        """Insert the rows without a number that follow a row by its chain, as far as that reaches.

        Their other columns are derived from the row: the chain proves it.
        """
        if not self.unnumbered:
            return
        boots = {boot_id: number for number, boot_id, *_ in self.damaged.boots}
        gaps = connection.execute(
            "SELECT n, chain FROM swipes AS one WHERE NOT EXISTS (SELECT 1 FROM swipes WHERE n = one.n + 1)"
        ).fetchall()
        for n, chain in gaps:
            while found := next((f for f in self.unnumbered.values() if f.parsed.follows(chain)), None):
                del self.unnumbered[found.parsed.event_id]
                n, chain = n + 1, found.parsed.chain  # noqa: PLW2901 - the row that the next one follows
                connection.execute(INSERT, _derived(n, found, boots))


def _derived(n: int, found: FoundRow, boots: dict[str, int]) -> StoredRow:
    read = rows.recorded_time(found.row)
    boot = next((number for boot_id, number in boots.items() if read.is_of_boot(boot_id)), None)
    trusted_us = read.wall_us if read.synced else None
    columns = (n, found.parsed.chain, trusted_us, found.row, boot, read.boot_us)
    return StoredRow(*columns, row_checksum(*columns))


def insert_without_numbers(connection: sqlite3.Connection, damaged: DamagedFile) -> int:
    """Insert rows of schemas 1-3 where no number is left: committed ones first, then by id and seq.

    Returns the number of the last committed row.
    """
    marks = damaged.marks()
    connection.execute(
        """CREATE TEMP TABLE found(is_pending INTEGER, outbox_id TEXT, seq INTEGER, chain TEXT,
                                   event_id TEXT PRIMARY KEY, row BLOB) WITHOUT ROWID"""
    )
    connection.executemany(
        "INSERT OR IGNORE INTO found VALUES (?, ?, ?, ?, ?, ?)",
        (
            (seq > marks.get(outbox_id, 0), outbox_id, seq, parsed.chain, parsed.event_id, row)
            for parsed, row, *_ in damaged.scanned()
            for outbox_id, seq in _old_position(parsed)
        ),
    )
    connection.execute(
        """INSERT INTO swipes(n, chain, row)
           SELECT row_number() OVER (ORDER BY is_pending, outbox_id, seq), chain, row FROM found"""
    )
    (committed,) = connection.execute("SELECT count(*) FROM found WHERE NOT is_pending").fetchone()
    return int(committed)


def _old_position(parsed: ParsedRow) -> list[tuple[str, int]]:
    return [(parsed.outbox_id, parsed.seq)] if parsed.outbox_id is not None and parsed.seq is not None else []
