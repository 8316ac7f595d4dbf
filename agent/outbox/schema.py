"""The schema of the outbox file and its migrations."""

from __future__ import annotations

import functools
import re
import sqlite3
from contextlib import closing
from pathlib import Path

from agent import rows
from agent.errors import OutboxCorruptError, OutboxError, OutboxVersionError, quoted
from agent.outbox.event_store import EventState
from agent.outbox.records import Generation, StateRecord, new_outbox_id

# A number is never used again, also without AUTOINCREMENT, which would write one more page for every
# swipe: rows go only when they are committed, and `state` remembers the last committed number.
# STRICT, so that a value of the wrong type is an error at keep(), not later.
_VERSION_1 = """
CREATE TABLE swipes(
  seq INTEGER PRIMARY KEY,
  chain TEXT NOT NULL,
  trusted_us INTEGER,
  row BLOB NOT NULL
) STRICT;
CREATE TABLE state(
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  outbox_id TEXT NOT NULL,
  committed_seq INTEGER NOT NULL,
  committed_chain TEXT NOT NULL
) STRICT;
INSERT INTO state VALUES (1, :outbox_id, 0, '');
"""

# Rows are numbered by `n` for the life of the file. A row's seq is n - base: when the outbox has
# to take a new id, the pending rows move after all others, and base moves with them.
# `held` are ranges of rows held for an operator; `replays` are ranges to send again.
_VERSION_2 = """
ALTER TABLE swipes RENAME COLUMN seq TO n;
ALTER TABLE state RENAME COLUMN committed_seq TO committed_n;
ALTER TABLE state ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN machine_id TEXT NOT NULL DEFAULT '';
ALTER TABLE state ADD COLUMN unreadable INTEGER NOT NULL DEFAULT 0;
CREATE TABLE held(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL CHECK (kind IN ('rejected', 'set_aside')),
  first_n INTEGER NOT NULL,
  last_n INTEGER NOT NULL,
  reason TEXT NOT NULL,
  released INTEGER NOT NULL DEFAULT 0 CHECK (released IN (0, 1))
) STRICT;
CREATE TABLE replays(
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  first_n INTEGER NOT NULL,
  last_n INTEGER NOT NULL,
  held_id INTEGER
) STRICT;
CREATE TABLE replayed(
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  replay_id INTEGER NOT NULL,
  n INTEGER NOT NULL,
  chain TEXT NOT NULL
) STRICT;
INSERT INTO replayed VALUES (1, 0, 0, '');
CREATE TABLE error_counts(
  channel TEXT PRIMARY KEY,
  created_on_ms INTEGER NOT NULL,
  rows_error_count INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""

# Corrected times. `boots` are the clock observations of each boot (agent.clock.offset_model); `timings` are
# the curves that rows were sent with, from first_n up to the next first_n, so that a replay sends the same
# times. Points are JSON: [[boot_us, offset_us, error_us, sure], ...]; earlier agents wrote no `sure`. The new
# columns of older rows are NULL.
_VERSION_3 = """
ALTER TABLE swipes ADD COLUMN boot INTEGER;
ALTER TABLE swipes ADD COLUMN boot_us INTEGER;
CREATE TABLE boots(
  number INTEGER PRIMARY KEY,
  boot_id TEXT NOT NULL UNIQUE,
  begins_us INTEGER NOT NULL,
  last_us INTEGER NOT NULL,
  earliest_us INTEGER NOT NULL,
  hint_us INTEGER,
  trusted INTEGER NOT NULL CHECK (trusted IN (0, 1)),
  points TEXT NOT NULL
) STRICT;
CREATE TABLE timings(
  first_n INTEGER PRIMARY KEY,
  boot INTEGER NOT NULL,
  boot_id TEXT NOT NULL,
  points TEXT NOT NULL
) STRICT;
"""

# Rows without a position, and checksums. `generation` gives a row its outbox id and seq, so that a new
# generation is one small write. The new column of older rows is NULL, and stays so: an offset token with
# their chain may be on its way. `bounds` are where the last batches end: JSON, [[replay id, n], ...].
_VERSION_4 = """
ALTER TABLE swipes ADD COLUMN checksum INTEGER;
ALTER TABLE error_counts ADD COLUMN bounds TEXT NOT NULL DEFAULT '[]';
DROP TABLE state;
CREATE TABLE state(
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  committed_n INTEGER NOT NULL,
  committed_chain TEXT NOT NULL,
  machine_id TEXT NOT NULL,
  unreadable INTEGER NOT NULL,
  legacy_n INTEGER NOT NULL,
  agent_id TEXT NOT NULL,
  channel TEXT NOT NULL,
  recovering TEXT NOT NULL,
  pipe TEXT NOT NULL,
  channel_first_n INTEGER NOT NULL,
  replay_channel TEXT NOT NULL,
  replay_pipe TEXT NOT NULL,
  renewal TEXT NOT NULL,
  switches INTEGER NOT NULL,
  switched_us INTEGER NOT NULL,
  suspect_n INTEGER NOT NULL,
  suspect_replay_id INTEGER NOT NULL,
  suspect_replay_n INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
INSERT INTO state VALUES (1, :committed_n, :committed_chain, :machine_id, :unreadable, :legacy_n, :agent_id,
                          :channel, :recovering, :pipe, :channel_first_n, :replay_channel, :replay_pipe,
                          :renewal, :switches, :switched_us, :suspect_n, :suspect_replay_id,
                          :suspect_replay_n, :state_checksum);
CREATE TABLE generation(
  first_n INTEGER PRIMARY KEY,
  outbox_id TEXT NOT NULL,
  chain_before TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
INSERT INTO generation VALUES (:first_n, :outbox_id, :chain_before, :generation_checksum);
"""

# Door events: their own numbering, chain and committed position (event_store).
_VERSION_5 = """
CREATE TABLE door_events(
  n INTEGER PRIMARY KEY,
  chain TEXT NOT NULL,
  row BLOB NOT NULL,
  boot INTEGER,
  boot_us INTEGER NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
CREATE TABLE door_events_state(
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  committed_n INTEGER NOT NULL,
  committed_chain TEXT NOT NULL,
  first_n INTEGER NOT NULL,
  outbox_id TEXT NOT NULL,
  chain_before TEXT NOT NULL,
  channel TEXT NOT NULL,
  pipe TEXT NOT NULL,
  suspect_n INTEGER NOT NULL,
  refused INTEGER NOT NULL,
  version TEXT NOT NULL,
  checksum INTEGER NOT NULL
) STRICT;
INSERT INTO door_events_state VALUES (1, 0, '', 1, '', '', '', '', 0, 0, '', :event_checksum);
"""

_MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4, _VERSION_5)
VERSION = len(_MIGRATIONS)
_WITH_GENERATIONS = 4

_OLD_OUTBOX_ID = re.compile(r"[0-9a-f]{12}")


def refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    """Raise OutboxVersionError if the schema is newer than this program, OutboxError if it is a foreign one.

    A newer number over the tables of this version is a damaged number: raises OutboxCorruptError. So every
    new version has to change a table.
    """
    _refuse_foreign(connection, path)
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version <= VERSION:
        return
    if _tables(connection) == _expected():
        raise OutboxCorruptError(f"{path}: the version {version} is damaged")
    raise OutboxVersionError(
        f"{path} has schema {version}, this program knows up to {VERSION}; it was left untouched",
        hint="install the newer badge-agent again: sudo apt install badge-agent",
    )


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    """Raise OutboxError for tables of which none is ours: a damaged outbox still has some of them."""
    found, own = _names(_tables(connection)), _names(_expected())
    if found and not found & own:
        names = ", ".join(sorted(found))[:100]
        raise OutboxError(
            f"{path} is the database of another program ({quoted(names)}); it was left untouched",
            hint=f"move it to another place: sudo mv {path} ...",
        )


def _names(tables: frozenset[tuple[str, str, str]]) -> set[str]:
    return {name for _, name, _ in tables if not name.startswith("sqlite_")}


def check(connection: sqlite3.Connection) -> None:
    """Raise OutboxCorruptError if the tables are not those that this program creates."""
    found, expected = _tables(connection), _expected()
    if found != expected:
        names = sorted({name for _, name, _ in found ^ expected})
        raise OutboxCorruptError(f"the schema is damaged ({', '.join(names)[:100]})")


def _tables(connection: sqlite3.Connection) -> frozenset[tuple[str, str, str]]:
    """Kind, name and normalised text of everything in the schema but the statistics of ANALYZE."""
    found = connection.execute(
        "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite#_stat%' ESCAPE '#'"
    )
    return frozenset((str(kind), str(name), _normalised(str(sql))) for kind, name, sql in found.fetchall())


@functools.cache
def _expected() -> frozenset[tuple[str, str, str]]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        return _tables(connection)


# The text that ALTER TABLE leaves differs between versions of SQLite; the first agents wrote comments,
# and AUTOINCREMENT in `swipes`.
_NOISE = re.compile(r"--[^\n]*|/\*.*?\*/|[\s\"`\[\]]+|autoincrement", re.DOTALL)


def _normalised(sql: str) -> str:
    return _NOISE.sub("", sql.casefold())


def is_sound(
    connection: sqlite3.Connection, outbox_id: object, base: object, committed_n: object, chain: object
) -> bool:
    """False if a state of schema 1-3 contradicts itself or the row it names."""
    if not isinstance(outbox_id, str) or not isinstance(base, int) or not isinstance(committed_n, int):
        return False
    if not _OLD_OUTBOX_ID.fullmatch(outbox_id) or not 0 <= base <= committed_n:
        return False
    row = connection.execute("SELECT chain FROM swipes WHERE rowid = ?", (committed_n,)).fetchone()
    return row is None or chain in {"", row[0]}


def migrate(connection: sqlite3.Connection, *, to: int = VERSION) -> None:
    """Migrate the tables up to schema `to`, all steps in one transaction that rewrites no row.

    Raises OutboxCorruptError for a damaged state, sqlite3.Error.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= to:
        return
    parameters: dict[str, object] = {
        "outbox_id": new_outbox_id(),
        "event_checksum": EventState().checksum,
    }
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number, script in enumerate(_MIGRATIONS[version:to], version + 1):
            if number == _WITH_GENERATIONS:
                parameters |= _with_generation(connection)
            for statement in script.split(";\n"):
                connection.execute(statement, parameters)
        connection.execute(f"PRAGMA user_version={to}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _with_generation(connection: sqlite3.Connection) -> dict[str, object]:
    """The state of schema 3 as state and generation of schema 4. The agent id is that of the newest row."""
    found = connection.execute(
        "SELECT outbox_id, base, committed_n, committed_chain, machine_id, unreadable FROM state"
    ).fetchone()
    if found is None or not is_sound(connection, *found[:4]):
        raise OutboxCorruptError("its state is damaged")
    outbox_id, base, committed_n, committed_chain, machine_id, unreadable = found
    newest = connection.execute("SELECT n, row FROM swipes ORDER BY n DESC LIMIT 1").fetchone() or (0, None)
    parsed = rows.parse(newest[1])
    agent_id = str(parsed.members.get("agent_id", "")) if parsed is not None else ""
    is_replaying = connection.execute("SELECT 1 FROM replays LIMIT 1").fetchone() is not None
    channel = f"{agent_id}-{outbox_id}" if agent_id else ""
    record = StateRecord(
        committed_n=committed_n,
        committed_chain=committed_chain,
        machine_id=machine_id,
        unreadable=unreadable,
        legacy_n=max(newest[0], committed_n),
        agent_id=agent_id,
        channel=channel,
        recovering="",
        channel_first_n=base + 1 if channel else 0,
        replay_channel=f"{channel}-replay" if channel and is_replaying else "",
    )
    generation = Generation(base + 1, outbox_id, rows.first_link(outbox_id))
    return {
        **record._asdict(),
        "state_checksum": record.checksum,
        **generation._asdict(),
        "generation_checksum": generation.checksum,
    }
