"""Table, view and committed channel state of the emulator in one SQLite file."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from agent.emulator import event_loader
from agent.emulator.row_loader import COLUMNS, Row
from agent.errors import AgentError
from agent.sql.columns import COLUMNS as TABLE_COLUMNS
from agent.sql.door_events import EVENT_COLUMNS
from agent.sql.plan import EXPECTED_TABLE

DATABASE_FILE = "snowflake.db"

# Rows are about 1 KiB, the table has no index, and commits are large: big pages and a WAL that is
# checkpointed every 16 MiB measured fastest.
_PAGE_BYTES = 16384
_CHECKPOINT_PAGES = 1024

_SECRET_BYTES = 32

# NUMERIC, so that -999 remains an integer and -65.5 a real. All other types are TEXT.
_SQLITE_TYPES = {"NUMBER(38,0)": "INTEGER", "BOOLEAN": "INTEGER", "NUMBER(5,2)": "NUMERIC"}


def _event_declarations() -> dict[str, str]:
    """The columns of RAW_DOOR_EVENTS, each as SQLite declares it; details and raw_json are JSON as text."""
    types = {column.name: column.type for column in EVENT_COLUMNS}
    return {name: _declared(name, types.get(name, "VARCHAR")) for name in event_loader.COLUMNS}


def _declared(name: str, column_type: str) -> str:
    kind, _, rest = column_type.partition(" ")
    not_null = " NOT NULL" if rest == "NOT NULL" else ""
    return f"{name} {_SQLITE_TYPES.get(kind, 'TEXT')}{not_null}"


def _declarations() -> dict[str, str]:
    """The columns of RAW_BADGE_EVENTS, each as SQLite declares it."""
    types = {column.name: column.type for column in TABLE_COLUMNS}
    return {name: _declared(name, types.get(name, "VARCHAR")) for name in dict.fromkeys((*COLUMNS, *types))}


_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS RAW_BADGE_EVENTS (
  {", ".join(_declarations().values())}
);
CREATE TABLE IF NOT EXISTS {event_loader.TABLE} (
  {", ".join(_event_declarations().values())}
);
CREATE TABLE IF NOT EXISTS {EXPECTED_TABLE} (agent_id TEXT NOT NULL, site TEXT, note TEXT);
CREATE VIEW IF NOT EXISTS V_INGESTION_METRICS AS
SELECT strftime('%Y-%m-%d %H:00:00', ingestion_time) AS ingestion_hour,
       COUNT(*) AS event_count,
       ROUND(COUNT(*) / 3600.0, 2) AS events_per_second,
       COUNT(DISTINCT badge_id) AS unique_badges,
       COUNT(DISTINCT zone_id) AS unique_zones,
       ROUND(AVG(NULLIF(signal_strength, -999)), 2) AS avg_signal_strength,
       SUM(signal_quality = 'WEAK') AS weak_signal_count,
       ROUND(SUM(signal_quality = 'WEAK') * 100.0 / COUNT(*), 2) AS weak_signal_pct,
       COALESCE(SUM(direction = 'ENTRY'), 0) AS entry_count,
       COALESCE(SUM(direction = 'EXIT'), 0) AS exit_count,
       COALESCE(SUM(direction = 'ENTRY'), 0) - COALESCE(SUM(direction = 'EXIT'), 0) AS net_occupancy_change
FROM RAW_BADGE_EVENTS
WHERE ingestion_time >= datetime('now', '-24 hours') AND (outbox_id IS NOT NULL OR agent_id IS NULL)
GROUP BY ingestion_hour
ORDER BY ingestion_hour DESC;
CREATE TABLE IF NOT EXISTS CHANNELS (
  pipe_name             TEXT NOT NULL,
  channel_name          TEXT NOT NULL,
  created_on_ms         INTEGER NOT NULL,
  client_sequencer      INTEGER NOT NULL,
  offset_token          TEXT,
  rows_inserted         INTEGER NOT NULL,
  rows_error_count      INTEGER NOT NULL,
  last_error_offset     TEXT,
  last_error_message    TEXT,
  last_error_ms         INTEGER,
  PRIMARY KEY (pipe_name, channel_name)
);
CREATE TABLE IF NOT EXISTS TOKEN_SECRET (secret BLOB NOT NULL);
"""  # noqa: S608 - names and types from agent.sql


@dataclass(frozen=True, slots=True)
class ChannelRecord:
    """The committed state of a channel; its fields are the columns of CHANNELS."""

    pipe_name: str
    channel_name: str
    created_on_ms: int
    client_sequencer: int = 0
    offset_token: str | None = None
    rows_inserted: int = 0
    rows_error_count: int = 0
    last_error_offset: str | None = None
    last_error_message: str | None = None
    last_error_ms: int | None = None


def _insert(table: str, columns: Sequence[str]) -> str:
    places = ",".join("?" * len(columns))
    return f"INSERT OR REPLACE INTO {table} ({','.join(columns)}) VALUES ({places})"  # noqa: S608 - own names


_INSERT_ROW = _insert("RAW_BADGE_EVENTS", COLUMNS)
_INSERT_EVENT = _insert(event_loader.TABLE, event_loader.COLUMNS)
_SAVE_CHANNEL = _insert("CHANNELS", [column.name for column in fields(ChannelRecord)])
_DELETE_CHANNEL = "DELETE FROM CHANNELS WHERE pipe_name = ? AND channel_name = ?"


class Database:
    """One connection, used by one thread. Every method raises AgentError if the disk fails."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / DATABASE_FILE
        with self._translated():
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self._path, isolation_level=None)
            self._connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
            self._connection.execute("PRAGMA journal_mode = WAL")
            # Committed rows survive a kill, not a power cut: sufficient for an emulator.
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
            self._connection.executescript(_SCHEMA)
            self._add_missing_columns()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def channels(self) -> list[ChannelRecord]:
        """Every channel that exists."""
        columns = ",".join(column.name for column in fields(ChannelRecord))
        with self._translated():
            found = self._connection.execute(f"SELECT {columns} FROM CHANNELS").fetchall()  # noqa: S608 - own names
        return [ChannelRecord(*row) for row in found]

    def token_secret(self) -> bytes:
        """The key for signing scoped tokens: created once, so that they survive a restart."""
        with self._transaction():
            row = self._connection.execute("SELECT secret FROM TOKEN_SECRET").fetchone()
            if row is None:
                row = (secrets.token_bytes(_SECRET_BYTES),)
                self._connection.execute("INSERT INTO TOKEN_SECRET VALUES (?)", row)
        return bytes(row[0])

    def save(self, record: ChannelRecord) -> None:
        """Create or replace a channel."""
        self.commit([], [record])

    def delete(self, record: ChannelRecord) -> None:
        """Delete a channel and its offset token."""
        with self._transaction():
            self._connection.execute(_DELETE_CHANNEL, (record.pipe_name, record.channel_name))

    def commit(
        self, rows: Iterable[Row], records: Iterable[ChannelRecord], events: Iterable[Row] = ()
    ) -> None:
        """Write rows of swipes and of door events, offset tokens and counters in one transaction."""
        with self._transaction():
            self._connection.executemany(_INSERT_ROW, rows)
            self._connection.executemany(_INSERT_EVENT, events)
            self._connection.executemany(_SAVE_CHANNEL, map(astuple, records))

    def _add_missing_columns(self) -> None:
        """Bring the table of an earlier version up to date; columns no longer filled stay as they are."""
        found = {row[1] for row in self._connection.execute("PRAGMA table_info(RAW_BADGE_EVENTS)")}
        for name, declared in _declarations().items():
            if name not in found:
                self._connection.execute(f"ALTER TABLE RAW_BADGE_EVENTS ADD COLUMN {declared}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise AgentError(
                f"{self._path}: cannot be used: {error}",
                hint="Check the directory given as --state-dir: it must be writable and have space.",
            ) from error
