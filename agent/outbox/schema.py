"""The schema of the outbox file and its migrations."""

from __future__ import annotations

import re
import sqlite3
import uuid
from pathlib import Path

from agent.errors import OutboxVersionError

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
# times. Points are JSON: [[boot_us, offset_us, error_us], ...]. The new columns of older rows are NULL.
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

_MIGRATIONS = (_VERSION_1, _VERSION_2, _VERSION_3)
VERSION = len(_MIGRATIONS)


_OUTBOX_ID = re.compile(r"[0-9a-f]{12}")


def new_outbox_id() -> str:
    """A random id of 12 hex digits."""
    return uuid.uuid4().hex[:12]


def refuse_newer(connection: sqlite3.Connection, path: Path) -> None:
    """Raise OutboxVersionError if the schema is newer than this program."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > VERSION:
        raise OutboxVersionError(
            f"{path} has schema {version}, this program knows up to {VERSION}; it was left untouched",
            hint="install the newer badge-agent again: sudo apt install badge-agent",
        )


def is_sound(
    connection: sqlite3.Connection, outbox_id: str, base: int, committed_n: int, committed_chain: str
) -> bool:
    """False if a state contradicts itself or the row it names: SQLite has no checksums."""
    if not _OUTBOX_ID.fullmatch(outbox_id) or not 0 <= base <= committed_n:
        return False
    row = connection.execute("SELECT chain FROM swipes WHERE rowid = ?", (committed_n,)).fetchone()
    return row is None or committed_chain in {"", row[0]}


def migrate(connection: sqlite3.Connection, *, to: int = VERSION) -> None:
    """Migrate the tables up to schema `to`, all steps in one transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version >= to:
        return
    parameters = {"outbox_id": new_outbox_id()}
    connection.execute("BEGIN IMMEDIATE")
    try:
        for script in _MIGRATIONS[version:to]:
            for statement in script.split(";\n"):
                connection.execute(statement, parameters)
        connection.execute(f"PRAGMA user_version={to}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
