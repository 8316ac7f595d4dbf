"""The outbox file: how it is opened, what is in it, and how an older one is brought up to date."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

from agent.errors import AgentError, NotPermittedError, OutboxError, OutboxVersionError

OUTBOX_FILE = "outbox.db"
VERSION = 1

# 1 KiB pages and a WAL that is grown once and then overwritten in place: measured, a commit
# of one swipe then writes 58 % fewer bytes to the card than SQLite's defaults.
_PAGE_BYTES = 1024
_GROWN_WAL_BYTES = 1_100_000  # a little over the 1,000 pages after which SQLite checkpoints

# AUTOINCREMENT, because a number must never be used again, not even after every row was purged.
# STRICT, so that a value of the wrong type is an error at keep() and not a surprise at the door.
_TABLES = """
CREATE TABLE swipes(
  seq INTEGER PRIMARY KEY AUTOINCREMENT,
  chain TEXT NOT NULL,
  trusted_us INTEGER,          -- wall clock at the read, NULL while that clock was not trusted
  row BLOB NOT NULL            -- the JSON object as it goes to the pipe
) STRICT;
CREATE TABLE state(
  only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
  outbox_id TEXT NOT NULL,
  committed_seq INTEGER NOT NULL,   -- every seq up to here is in Snowflake
  committed_chain TEXT NOT NULL     -- and this is the chain of that row
) STRICT;
"""


def new_outbox_id() -> str:
    """A random id, 12 hex digits: unique enough for every card ever put into every door."""
    return uuid.uuid4().hex[:12]


def open_for_writing(state_dir: Path) -> sqlite3.Connection:
    """The agent's own connection: created, migrated, checkpointed and grown as needed.

    Raises OutboxError (74), OutboxVersionError for a file from a newer program, NotPermittedError.
    """
    path = state_dir / OUTBOX_FILE
    with translated(path):
        is_new = _create(path)
        version = _known_version(path)
        connection = _connect(path, "rw")
        try:
            _prepare(connection)
            _migrate(connection, version)
            _grow_wal(connection)
        except BaseException:
            connection.close()
            raise
        if is_new:
            _sync_directory(state_dir)
        return connection


def open_for_reading(state_dir: Path) -> sqlite3.Connection:
    """A second look at the file while the agent writes. Raises OutboxError if there is none."""
    path = state_dir / OUTBOX_FILE
    with translated(path):
        return _connect(path, "ro")


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """The edge where SQLite's exceptions become ours, with the file's name and what to do."""
    try:
        yield
    except AgentError:
        raise
    except PermissionError as error:
        raise NotPermittedError(
            f"not permitted to use {path}",
            hint=f"run as the agent's user, or: sudo chown badge-agent: {path}",
        ) from error
    except (sqlite3.Error, OSError) as error:
        raise OutboxError(f"{path}: {error}", hint=_hint(error)) from error


def _hint(error: sqlite3.Error | OSError) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_FULL"):
        return "the disk is full: df -h"
    if name.startswith("SQLITE_READONLY"):
        return "the file or disk is read-only; a failing SD card does that: dmesg | grep -i mmc"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return "the file is damaged: badge-agent check tells how far"
    return "look for disk errors: dmesg | grep -iE 'mmc|i/o error'"


def _create(path: Path) -> bool:
    """Make the file with its mode right from the first moment. Returns True if it was not there."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    # psow=0: an SD card may damage the whole sector it writes when the power fails, so no commit
    # may share its last sector with the next one.
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}&psow=0",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=5.0,
    )


def _known_version(path: Path) -> int:
    # Through a connection that cannot write: the last one that can moves a left-over WAL into the
    # file when it closes.
    with contextlib.closing(_connect(path, "ro")) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise OutboxVersionError(
            f"{path} has schema {version}, this program knows up to {VERSION}; it was left untouched",
            hint="install the newer badge-agent again: apt install badge-agent",
        )
    return version


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in (
        f"page_size={_PAGE_BYTES}",  # only takes effect on a file that has no table yet
        "journal_mode=WAL",
        "synchronous=FULL",
        "journal_size_limit=-1",  # keep the grown WAL: overwriting allocated space is cheap
        # The last commit before a power cut may lack its padding; after this nothing shares its sector.
        "wal_checkpoint(TRUNCATE)",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    if version == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    for statement in _TABLES.split(";\n"):
        connection.execute(statement)
    connection.execute("INSERT INTO state VALUES (1, ?, 0, '')", (new_outbox_id(),))
    connection.execute(f"PRAGMA user_version={VERSION}")
    connection.execute("COMMIT")


def _grow_wal(connection: sqlite3.Connection) -> None:
    """Fill the WAL once with what is rolled out of the file again: the space stays allocated."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE scratch(filler BLOB)")
    connection.execute("INSERT INTO scratch VALUES (zeroblob(?))", (_GROWN_WAL_BYTES,))
    connection.execute("DROP TABLE scratch")
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
