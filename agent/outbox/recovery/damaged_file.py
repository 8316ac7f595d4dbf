"""Reads a damaged outbox file: rows through SQLite where its pages allow, else from the raw bytes."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

from agent import rows
from agent.errors import OutboxError
from agent.outbox import schema
from agent.outbox.database import OUTBOX_FILE, QUERY_ERRORS, open_external
from agent.outbox.recovery.sectors import SectorReader
from agent.outbox.timing import boot_table
from agent.rows import ParsedRow

_CHUNK = 256
_TIMING_COLUMNS = 4  # a curve without points is useless, a boot without points is not
# The smallest size of a row in the file; bounds how many missing numbers are tried one by one.
_LEAST_ROW_BYTES = 100
# A disk may try for seconds before it reports a bad sector. A page has at most so many rows: when more
# of them in a row cannot be read, a page above them cannot, and ever longer runs are left to scanned().
_ROWS_IN_PAGE = 40
_LONGEST_RUN = 2**40
# The record of the table `state`: outbox id, the committed number in up to eight bytes, its chain.
_STATE = re.compile(rb"([0-9a-f]{12})[\x00-\xff]{0,8}?([0-9a-f]{16})")
_LONGEST_STATE_BYTES = 12 + 8 + 16

_Stored = tuple[int, int | None, bytes, int | None, int | None]
# The columns of `swipes`: n, chain, trusted_us, row, boot, boot_us.
Numbered = tuple[int, str, int | None, bytes, int | None, int | None]


@dataclass(frozen=True, slots=True)
class State:
    """The table `state`, as far as the rebuild needs it."""

    outbox_id: str
    base: int
    committed_n: int
    machine_id: str = ""
    unreadable: int = 0


class DamagedFile:
    """A damaged outbox file of any schema version. No method raises because of the damage."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._files = [SectorReader(state_dir / name) for name in (OUTBOX_FILE, OUTBOX_FILE + "-wal")]
        self._connection: sqlite3.Connection | None = None
        with contextlib.suppress(OutboxError):
            self._connection = open_external(state_dir, "ro")
        self.state = self._read_state()
        self.held = _sound(
            self._all("SELECT id, kind, first_n, last_n, reason, released FROM held"),
            (int, str, int, int, str, int),
        )
        self.replays = _sound(
            self._all("SELECT id, first_n, last_n, held_id FROM replays"), (int, int, int, int | None)
        )
        self.replayed = _sound(self._all("SELECT replay_id, n, chain FROM replayed"), (int, int, str))
        self.boots = _with_points(
            _sound(
                self._all(f"SELECT {boot_table.COLUMNS} FROM boots"),
                (int, str, int, int, int, int | None, int, str),
            )
        )
        self.timings = _with_points(
            _sound(self._all("SELECT first_n, boot, boot_id, points FROM timings"), (int, int, str, str))
        )
        # Older schemas have no boot number in `swipes`.
        knows_boots = bool(self._all("SELECT 1 FROM pragma_table_info('swipes') WHERE name = 'boot_us'"))
        self._columns = "rowid, trusted_us, row, " + ("boot, boot_us" if knows_boots else "NULL, NULL")
        self.last_n = max((n for (n,) in self._all("SELECT max(rowid) FROM swipes") if n), default=0)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()

    def _all(self, query: str, *values: object) -> list[Any]:
        """All rows of a query, or none if it fails: each query is independent of the others."""
        with contextlib.suppress(*QUERY_ERRORS):
            if self._connection is not None:
                return self._connection.execute(query, values).fetchall()
        return []

    def _read_state(self) -> State | None:
        for query in (
            "SELECT outbox_id, base, committed_n, committed_chain, machine_id, unreadable FROM state",
            "SELECT outbox_id, 0, committed_seq, committed_chain FROM state",  # version 1
        ):
            for outbox_id, base, committed_n, committed_chain, *others in self._all(query):
                if self._is_sound(outbox_id, base, committed_n, committed_chain):
                    return State(outbox_id, base, committed_n, *others)
        return None

    def _is_sound(self, *state: object) -> bool:
        # A misplaced page may hold values of any type.
        with contextlib.suppress(*QUERY_ERRORS, TypeError):
            return self._connection is not None and schema.is_sound(self._connection, *state)  # type: ignore[arg-type]
        return False

    # --- through SQLite -----------------------------------------------------------------------

    def numbered(self) -> Iterator[Numbered]:
        """Rows by number: in chunks where the pages are sound, one by one around damaged pages."""
        budget = (self._state_dir / OUTBOX_FILE).stat().st_size // _LEAST_ROW_BYTES
        n, run, connection = 0, 0, self._connection
        while connection is not None:
            try:
                chunk = self._chunk(connection, "rowid > ?", n)
            except QUERY_ERRORS:
                if budget <= 0 or (self.last_n and n >= self.last_n) or n > _LONGEST_RUN:
                    return
                budget -= 1
                n += 2 ** max(0, run - _ROWS_IN_PAGE)
                try:
                    yield from _complete(self._chunk(connection, "rowid = ?", n))
                    run = 0
                except QUERY_ERRORS as error:
                    run = run + 1 if _is_read_error(error) else 0
                continue
            if not chunk:
                return
            yield from _complete(chunk)
            n, run = chunk[-1][0], 0

    def _chunk(self, connection: sqlite3.Connection, where: str, n: int) -> list[_Stored]:
        found = connection.execute(
            f"SELECT {self._columns} FROM swipes WHERE {where} ORDER BY rowid LIMIT {_CHUNK}", (n,)
        ).fetchall()
        if found and found[-1][0] < n:
            raise sqlite3.DatabaseError("rows are out of order")
        return found

    # --- from the bytes -----------------------------------------------------------------------

    @property
    def unreadable_bytes(self) -> int:
        """The size of the sectors that the disk could not read, as of the last scanned()."""
        return sum(file.unreadable_bytes for file in self._files)

    def is_readable(self) -> bool:
        """False if the disk reads not one sector of the file: then the disk fails, not a place on it."""
        return any(file.is_readable() for file in self._files)

    def scanned(self) -> Iterator[tuple[ParsedRow, bytes]]:
        """Every complete row in the readable bytes of the file and of its WAL."""
        for file in self._files:
            yield from rows.scan(file.pieces())

    def marks(self) -> dict[str, int]:
        """The committed seq of each outbox id, from the copies of the state record left in the bytes.

        A copy names the chain of the last committed row. Copies are of different age; the committed
        seq never decreases, so the highest is the latest.
        """
        copies = self._state_copies()
        marks: dict[str, int] = {}
        for row, _ in self.scanned():
            if (row.outbox_id.encode(), row.chain.encode()) in copies:
                marks[row.outbox_id] = max(row.seq, marks.get(row.outbox_id, 0))
        return marks

    def _state_copies(self) -> set[tuple[bytes, ...]]:
        copies: set[tuple[bytes, ...]] = set()
        for file in self._files:
            carried = b""
            for piece in file.pieces():
                content = carried + piece
                copies.update(match.groups() for match in _STATE.finditer(content))
                carried = content[1 - _LONGEST_STATE_BYTES :]
        return copies


def _is_read_error(error: Exception) -> bool:
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR")


def _sound(found: list[Any], kinds: tuple[type | UnionType, ...]) -> list[Any]:
    """Only the records whose columns have the expected types."""
    return [record for record in found if all(map(isinstance, record, kinds))]


def _with_points(records: list[Any]) -> list[Any]:
    """Only the records whose last column is a valid list of points."""
    whole = []
    for record in records:
        with contextlib.suppress(OutboxError):
            if boot_table.points_of(record[-1]) or len(record) > _TIMING_COLUMNS:
                whole.append(record)
    return whole


def _complete(found: list[_Stored]) -> Iterator[Numbered]:
    for n, trusted_us, row, boot, boot_us in found:
        parsed = rows.parse(row)
        if parsed is not None:
            yield n, parsed.chain, trusted_us, row, boot, boot_us
