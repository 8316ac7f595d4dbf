"""Reads a damaged outbox file: rows through SQLite where its pages allow, else from the raw bytes."""

from __future__ import annotations

import contextlib
import functools
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from agent import rows
from agent.errors import OutboxError
from agent.outbox import event_store, holds, schema
from agent.outbox.database import PAGE_BYTES, open_external
from agent.outbox.event_store import EventState, StoredEvent
from agent.outbox.file_errors import QUERY_ERRORS, error_name
from agent.outbox.records import STATE_COLUMNS, Generation, StateRecord, row_checksum
from agent.outbox.recovery import record_bytes
from agent.outbox.recovery.hidden_frames import hides_commits
from agent.outbox.recovery.record_bytes import MOST_NAMED_N, FoundHold, RowReader
from agent.outbox.recovery.sectors import SectorReader
from agent.outbox.timing import boot_table
from agent.outbox.timing.timestamps import Columns, StoredRow
from agent.rows import FoundRow

_CHUNK = 256
_TIMING_COLUMNS = 4  # a curve without points is useless, a boot without points is not
# The smallest size of a row in the file; bounds how many missing numbers are tried one by one.
_LEAST_ROW_BYTES = 100
# A disk may try for seconds before it reports a bad sector. A page has at most so many rows: when more
# of them in a row cannot be read, a page above them cannot, and ever longer runs are left to scanned().
_ROWS_IN_PAGE = 40
# The highest number that a checksum contains.
_MOST_N = 2**31 - 1
# The state record of schemas 1-3: outbox id, the committed number in up to eight bytes, its chain.
_STATE = re.compile(rb"([0-9a-f]{12})[\x00-\xff]{0,8}?([0-9a-f]{16})")
_LONGEST_STATE_BYTES = 12 + 8 + 16

# Another program that holds a damaged file is not waited for: the rows are found in its bytes as well.
_BUSY_MS = 50

_T = TypeVar("_T")
Search = Generator[None, None, _T]
_HOLDS = "SELECT id, kind, first_n, last_n, reason, released FROM held"


class DamagedFile:
    """A damaged outbox file of any schema version. No method raises because of the damage.

    What takes long is a generator: `Search` yields after each piece of the bytes, others yield None there.
    """

    def __init__(self, path: Path) -> None:
        self._files = [SectorReader(path), SectorReader(path.with_name(path.name + "-wal"))]
        self._connection: sqlite3.Connection | None = None
        self._path = path
        self._answered: set[str] = set()  # the queries that SQLite could process
        # Something could not be read by SQLite, or was not as stored.
        self.had_errors = hides_commits(path)
        self._connect()
        # How many rows the file can have.
        self.capacity = sum(file.size for file in self._files) // _LEAST_ROW_BYTES
        # How many single numbers are tried around damaged pages: in all, as each search meets the same pages.
        self._tries_left = self.capacity
        self.searched_bytes = 0  # by the search of the bytes that is in progress
        self.state, self.generations = self._read_state()
        self._held = self._all(_HOLDS)
        counts = self._all("SELECT channel, created_on_ms, rows_error_count, bounds FROM error_counts")
        self.error_counts = list(filter(holds.is_error_count, counts))
        replays = self._all("SELECT id, first_n, last_n, held_id FROM replays")
        self.replays = list(filter(holds.is_replay, replays))
        replayed = self._all("SELECT replay_id, n, chain FROM replayed")
        self.replayed = list(filter(holds.is_replayed, replayed))
        boots = self._all(f"SELECT {boot_table.COLUMNS} FROM boots")
        self.boots = _with_points(list(filter(boot_table.is_boot, boots)))
        timings = self._all("SELECT first_n, boot, boot_id, points FROM timings")
        self.timings = _with_points(list(filter(_is_timing, timings)))
        self.events = [event for event in self._readable_events() if _is_event(event)]
        event_states = self._all(f"SELECT {event_store.STATE_COLUMNS} FROM door_events_state")
        self.event_state = next(filter(None, map(EventState.checked, event_states)), None)
        # Older schemas have no boot numbers and no checksums in `swipes`.
        known = {name for (name,) in self._all("SELECT name FROM pragma_table_info('swipes')")}
        others = (name if name in known else "NULL" for name in ("boot", "boot_us", "checksum"))
        self._columns = f"rowid, chain, trusted_us, row, {', '.join(others)}"
        self._last_rowid = self._number("SELECT max(rowid) FROM swipes")
        self.first_n = self._number("SELECT min(rowid) FROM swipes")
        self.last_row = self._last_row()

    def close(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _number(self, query: str) -> int:
        """A number that a query returns; 0 if it fails or returns none that a row can have."""
        return max((n for (n,) in self._all(query) if isinstance(n, int) and 0 < n <= _MOST_N), default=0)

    def _last_row(self) -> StoredRow | None:
        """The row with the highest number in the B-tree, if it is as stored."""
        found = self._all(f"SELECT {self._columns} FROM swipes ORDER BY rowid DESC LIMIT 1")
        proved = [row for row, is_proved in self._complete(found) if is_proved and row.n == self._last_rowid]
        return proved[0] if proved else None

    def last_boot(self) -> int | None:
        """The boot number of the newest row; None if it cannot be read."""
        boot = self.last_row.boot if self.last_row is not None else None
        return max([boot or 0, *(number for number, *_ in self.boots)], default=0) or None

    def highest_row(self) -> int:
        """The highest number of the rows found in some places of the bytes; 0 if there are none."""
        reader = RowReader()
        found = (row for file in self._files for row in rows.scan(file.samples()) if row is not None)
        return max((stored.n for stored in map(reader.stored, found) if stored), default=0)

    @functools.cached_property
    def sampled_records(self) -> set[StateRecord | Generation | FoundHold]:
        """The records found in some places of the bytes, of whatever age.

        Their tables are small and made with the file, so that they lie near its begin.
        """
        pieces = (piece for file in self._files for piece in file.samples())
        found = (one for piece in pieces for one in record_bytes.records([piece]))
        return {one for one in found if one is not None}

    @functools.cached_property
    def held(self) -> list[FoundHold]:
        """The holds that can be read, else those found by their bytes; of several copies a released one."""
        if _HOLDS in self._answered:
            return [FoundHold(*hold) for hold in self._held if holds.is_hold(hold)]
        found = [one for one in self.sampled_records if isinstance(one, FoundHold)]
        found.sort(key=lambda hold: (hold.released, hold.id))
        latest = {(hold.kind, hold.first_n, hold.last_n): hold._replace(id=None) for hold in found}
        return list(latest.values())

    def highest_named(self) -> int:
        """The highest number that a hold or a replay names; one that only a changed byte gives is ignored."""
        named = (*(hold.last_n for hold in self.held), *(replay[2] for replay in self.replays))
        return max((n for n in named if n < MOST_NAMED_N), default=0)

    def _all(self, query: str, *values: object) -> list[Any]:
        """All rows of a query, or none if it fails. None is tried after one that fails for all.

        What fails at a page is tried again with an empty cache: a worn card often returns a sector at the
        second read, and without the holds a row that was set aside counts as delivered. If these fail again,
        the file is kept (`had_errors`).
        """
        for is_last in (False, True):
            if self._connection is None:
                break
            try:
                found = self._connection.execute(query, values).fetchall()
            except QUERY_ERRORS as error:
                if _is_locked(error):
                    self.close()
                elif not error_name(error).startswith(("SQLITE_IOERR", "SQLITE_CORRUPT")):
                    break
                elif is_last:
                    self.had_errors |= query == _HOLDS
                    if _fails_for_all(error):
                        self.close()
                else:
                    self._connect()
            else:
                self._answered.add(query)
                return found
        return []

    def _connect(self) -> None:
        """Open the file through SQLite, with an empty cache; again if a sector cannot be read."""
        self.close()
        for _ in range(2):
            with contextlib.suppress(OutboxError):
                self._connection = open_external(self._path.parent, "ro", name=self._path.name)
                self._connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                return
        self.had_errors = True

    def _readable_events(self) -> Iterator[StoredEvent]:
        """The door events from both ends of the table up to the first page that cannot be read."""
        found: dict[int, StoredEvent] = {}
        for order in ("n", "n DESC"):
            with contextlib.suppress(*QUERY_ERRORS):
                if self._connection is not None:
                    query = f"SELECT {event_store.STORED} FROM door_events ORDER BY {order}"
                    for columns in self._connection.execute(query):
                        found[columns[0]] = StoredEvent._make(columns)
        yield from found.values()

    def _read_state(self) -> tuple[StateRecord | None, tuple[Generation, ...]]:
        """The state record, None if it is damaged, and the generations that are whole."""
        found = self._all(
            "SELECT first_n, outbox_id, chain_before, checksum FROM generation ORDER BY first_n"
        )
        generations = tuple(filter(None, map(Generation.checked, found)))
        for columns in self._all(f"SELECT {STATE_COLUMNS} FROM state"):
            record = StateRecord.checked(columns)
            if record is not None and self._has_chain(record.committed_n, record.committed_chain):
                return record, generations
        for query in (
            "SELECT outbox_id, base, committed_n, committed_chain, machine_id, unreadable FROM state",
            "SELECT outbox_id, 0, committed_seq, committed_chain, '', 0 FROM state",  # version 1
        ):
            for outbox_id, base, n, chain, machine_id, unreadable in self._all(query):
                if self._is_sound(outbox_id, base, n, chain):
                    record = StateRecord(n, chain, str(machine_id), int(unreadable), n, "", "", "")
                    return record, (Generation(base + 1, outbox_id, rows.first_link(outbox_id)),)
        return None, generations

    def _is_sound(self, *state: object) -> bool:
        with contextlib.suppress(*QUERY_ERRORS):
            return self._connection is not None and schema.is_sound(self._connection, *state)
        return False

    def _has_chain(self, n: int, chain: str) -> bool:
        """False if the row has another chain."""
        found = self._all("SELECT chain FROM swipes WHERE rowid = ?", n)
        return not found or chain in {"", found[0][0]}

    # --- through SQLite -----------------------------------------------------------------------

    def numbered(self, first_n: int, last_n: int) -> Iterator[tuple[StoredRow, bool] | None]:
        """Rows first_n..last_n by number, and whether each is as stored.

        Read in chunks, and one by one around damaged pages; None after each of these, for a pause.
        """
        run, connection, n = 0, self._connection, first_n - 1
        last_n = min(last_n, self._last_rowid or last_n)
        while connection is not None and n < last_n:
            yield None
            try:
                chunk = self._chunk(connection, n + 1, last_n)
            except QUERY_ERRORS as error:
                self.had_errors = True
                if self._tries_left <= 0 or _fails_for_all(error):
                    return
                self._tries_left -= 1
                n += 2 ** max(0, run - _ROWS_IN_PAGE)
                try:
                    if n <= last_n:
                        yield from self._complete(self._chunk(connection, n, n))
                    run = 0
                except QUERY_ERRORS as error:
                    run = run + 1 if _is_read_error(error) else 0
                continue
            if not chunk:
                return
            yield from self._complete(chunk)
            n, run = chunk[-1][0], 0

    def _chunk(self, connection: sqlite3.Connection, first_n: int, last_n: int) -> list[Columns]:
        """The first of these rows. No page after them is read: it may be damaged, too."""
        found = connection.execute(
            f"SELECT {self._columns} FROM swipes WHERE rowid BETWEEN ? AND ? ORDER BY rowid LIMIT {_CHUNK}",
            (first_n, last_n),
        ).fetchall()
        if found and found[-1][0] < first_n:
            raise sqlite3.DatabaseError("rows are out of order")
        return found

    def _complete(self, found: list[Columns]) -> Iterator[tuple[StoredRow, bool]]:
        """Complete rows, and whether each is as stored."""
        for columns in found:
            n, chain, trusted_us, row, *others = columns
            with contextlib.suppress(TypeError):
                if columns[6] is not None and columns[6] == row_checksum(*columns[:6]):
                    yield StoredRow(*columns), True
                    continue
            parsed = rows.parse(row)
            if parsed is None:
                self.had_errors = True
                continue
            times = [value if isinstance(value, int) else None for value in (trusted_us, *others)]
            stored = StoredRow(n, parsed.chain, times[0], row, *times[1:])
            is_proved = chain == parsed.chain and stored.checksum == row_checksum(*stored[:6])
            is_proved = is_proved or (stored.checksum is None and parsed.outbox_id is not None)
            self.had_errors = self.had_errors or not is_proved
            yield stored, is_proved

    # --- from the bytes -----------------------------------------------------------------------

    @property
    def unreadable_bytes(self) -> int:
        """The size of the sectors that the disk could not read, as of the last scanned()."""
        return sum(file.unreadable_bytes for file in self._files)

    def is_readable(self) -> bool:
        """False if the disk reads not one sector of the file: then the disk fails, not a place on it."""
        return any(file.is_readable() for file in self._files)

    def scanned(self, is_known: Callable[[bytes], bool] | None = None) -> Iterator[FoundRow | None]:
        """Every complete row in the readable bytes of the file and of its WAL; None after each piece.

        `is_known`: whether the rows of a page are not needed.
        """
        for number in range(len(self._files)):
            pieces = self._counted(number)
            # The WAL has no pages at the places of the file.
            yield from rows.scan(pieces if number or is_known is None else _blanked(pieces, is_known))

    def _counted(self, number: int) -> Iterator[bytes]:
        """The pieces of one of the files; `searched_bytes` follows."""
        self.searched_bytes = sum(file.size for file in self._files[:number])
        for piece in self._files[number].pieces():
            self.searched_bytes += len(piece)
            yield piece

    def states(self) -> Search[set[StateRecord]]:
        """Every whole copy of the state record in the bytes, of whatever age."""
        copies: set[StateRecord] = set()
        for number in range(len(self._files)):
            for record in record_bytes.records(self._counted(number)):
                if record is None:
                    yield
                elif isinstance(record, StateRecord):
                    copies.add(record)
        return copies

    def marks(self) -> Search[dict[str, int]]:
        """The committed seq of each outbox id, from copies of the state record of schemas 1-3 in the bytes.

        A copy names the chain of the last committed row. Copies are of different age; the committed
        seq never decreases, so the highest is the latest.
        """
        copies = yield from self._state_copies()
        marks: dict[str, int] = {}
        for found in self.scanned():
            if found is None:
                yield
                continue
            parsed = found.parsed
            if parsed.outbox_id is None or parsed.seq is None:
                continue
            if (parsed.outbox_id.encode(), parsed.chain.encode()) in copies:
                marks[parsed.outbox_id] = max(parsed.seq, marks.get(parsed.outbox_id, 0))
        return marks

    def _state_copies(self) -> Search[set[tuple[bytes, ...]]]:
        copies: set[tuple[bytes, ...]] = set()
        for number in range(len(self._files)):
            carried = b""
            for piece in self._counted(number):
                yield
                content = carried + piece
                copies.update(match.groups() for match in _STATE.finditer(content))
                carried = content[1 - _LONGEST_STATE_BYTES :]
        return copies


def _blanked(pieces: Iterable[bytes], is_known: Callable[[bytes], bool]) -> Iterator[bytes]:
    """The pieces, with zeros for known pages: a search passes them quickly."""
    for piece in pieces:
        pages = (piece[at : at + PAGE_BYTES] for at in range(0, len(piece), PAGE_BYTES))
        yield b"".join(bytes(len(page)) if is_known(page) else page for page in pages)


def _is_read_error(error: Exception) -> bool:
    return error_name(error).startswith("SQLITE_IOERR")


def _fails_for_all(error: Exception) -> bool:
    """Whether every query fails like this one: the file is locked, or its schema cannot be read."""
    return _is_locked(error) or "malformed database schema" in str(error)


def _is_locked(error: Exception) -> bool:
    """Whether the file is locked, or is no database. SQLite tries ten seconds before it reports PROTOCOL."""
    return error_name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL", "SQLITE_NOTADB"))


def _is_timing(columns: tuple[Any, ...]) -> bool:
    return all(map(isinstance, columns, (int, int, str, str)))


def _is_event(event: StoredEvent) -> bool:
    with contextlib.suppress(TypeError):  # a column of another type
        return event.is_intact
    return False


def _with_points(records: list[Any]) -> list[Any]:
    """Only the records whose last column is a valid list of points."""
    whole = []
    for record in records:
        with contextlib.suppress(OutboxError):
            if boot_table.points_of(record[-1]) or len(record) > _TIMING_COLUMNS:
                whole.append(record)
    return whole
