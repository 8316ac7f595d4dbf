"""The SQLite file of the outbox: opening, transactions, and the translation of sqlite3's errors."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from agent.atomic_file import sync
from agent.errors import (
    AgentError,
    NotPermittedError,
    OutboxCorruptError,
    OutboxError,
    OutboxFullError,
)
from agent.outbox import schema

OUTBOX_FILE = "outbox.db"
SIDE_FILES = ("-journal", "-wal", "-shm")

# With psow=0 SQLite writes whole 4 KiB sectors: smaller pages would add their neighbours to every
# commit (measured: 21,400 bytes a swipe with 1 KiB pages, 12,200 with 2 KiB, 11,200 with 4 KiB).
PAGE_BYTES = 4096
# The WAL is grown once and then overwritten in place: a file that grows costs journal writes at
# every flush. Its size is a little above the pages after which SQLite restarts it.
_CHECKPOINT_PAGES = 250
_GROWN_WAL_BYTES = 1_100_000
# How long to wait for another process (list, release, replay), which locks the file briefly.
_BUSY_S = 5.0
# IOERR_CORRUPTFS: EIO on a read, a sector that the disk cannot read.
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_CORRUPTFS")


class OutboxFile:
    """Two connections to the file, a writer and a concurrent reader. For several threads."""

    def __init__(self, state_dir: Path) -> None:
        """Open or create, migrate, checkpoint and grow. Raises OutboxError, NotPermittedError."""
        self.path = state_dir / OUTBOX_FILE
        # One writer at a time, so that SQLite never returns BUSY to a thread of this process.
        self.write_lock = threading.RLock()
        self.read_lock = threading.RLock()
        # Commits that were flushed, one flush each. A checkpoint, about every fifty swipes, adds two that
        # SQLite does not report.
        self.flushes = 0
        self.open()

    def open(self) -> None:
        """Open both connections."""
        with translated(self.path):
            is_new = _create(self.path)
            _refuse_newer(self.path)
            self._writer = _connect(self.path, "rw")
            try:
                schema.refuse_newer(self._writer, self.path)
                _prepare(self._writer)
                schema.migrate(self._writer)
                with _room_permitting(self._writer):
                    _grow_wal(self._writer)
                self._reader = _connect(self.path, "ro")
            except BaseException:
                self._writer.close()
                raise
            if is_new:
                sync(self.path.parent)

    def close(self) -> None:
        """Close both connections."""
        with self.write_lock, self.read_lock:
            self._reader.close()
            self._writer.close()

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, rolled back by an exception.

        `durable`: on disk when it ends. Otherwise a power cut may undo it, though nothing before it;
        its content must be recoverable from elsewhere.
        """
        with self.write_lock, translated(self.path):
            if not durable:
                self._writer.execute("PRAGMA synchronous=NORMAL")
            changes = self._writer.total_changes
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
                if durable and self._writer.total_changes != changes:
                    self.flushes += 1
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._writer.execute("ROLLBACK")
                raise
            finally:
                if not durable:
                    self._writer.execute("PRAGMA synchronous=FULL")

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read what is committed; cursors must be exhausted or closed inside."""
        with self.read_lock, translated(self.path):
            yield self._reader


def open_external(state_dir: Path, mode: str) -> sqlite3.Connection:
    """A connection of another process, "ro" or "rw". Raises OutboxError if there is no file."""
    path = state_dir / OUTBOX_FILE
    with translated(path):
        return _connect(path, mode)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise OutboxError or a subclass for sqlite3.Error and OSError, with the path and a hint."""
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
        name = getattr(error, "sqlite_errorname", "")
        text = f"{path}: {error}"
        if name.startswith(_DAMAGE):
            raise OutboxCorruptError(text, hint="it is set aside and a new one is made") from error
        # SHMSIZE: the disk is full, no room for the index of the WAL.
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")) or (
            isinstance(error, OSError) and error.errno == errno.ENOSPC
        ):
            raise OutboxFullError(text, hint="free space on the disk: df -h") from error
        raise OutboxError(text, hint=_hint(name)) from error


def _hint(name: str) -> str:
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return "is the disk read-only? A failing SD card becomes so: dmesg | grep -i mmc"
    return "look for disk errors: dmesg | grep -iE 'mmc|i/o error'"


def _create(path: Path) -> bool:
    """Create the file with its mode. Returns False if it already exists."""
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
        timeout=_BUSY_S,
    )


def _refuse_newer(path: Path) -> None:
    """Check the schema version through a read-only connection.

    The last read-write connection moves a left-over WAL into the file when it closes, and a newer
    file must not be changed.
    """
    try:
        with contextlib.closing(_connect(path, "ro")) as connection:
            schema.refuse_newer(connection, path)
    except sqlite3.OperationalError as error:
        # A power cut at the very first start leaves a journal, which only a writer can roll back.
        if not error.sqlite_errorname.startswith("SQLITE_READONLY"):
            raise


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in (
        f"page_size={PAGE_BYTES}",  # only takes effect on a file that has no table yet
        "journal_mode=WAL",
        "synchronous=FULL",
        f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
        "journal_size_limit=-1",  # keep the grown WAL: overwriting allocated space is cheap
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    with _room_permitting(connection):
        # The last commit before a power cut may lack its padding; the truncated WAL starts in a new sector.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextlib.contextmanager
def _room_permitting(connection: sqlite3.Connection) -> Iterator[None]:
    """Ignore a full disk in the body: an agent on a full disk starts without this optimisation."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not error.sqlite_errorname.startswith("SQLITE_FULL"):
            raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _grow_wal(connection: sqlite3.Connection) -> None:
    """Write a table and drop it, so that the space of the WAL stays allocated."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("CREATE TABLE scratch(filler BLOB)")
    connection.execute("INSERT INTO scratch VALUES (zeroblob(?))", (_GROWN_WAL_BYTES,))
    connection.execute("DROP TABLE scratch")
    connection.execute("COMMIT")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
