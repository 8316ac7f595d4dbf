"""The SQLite file of the outbox: opening and transactions."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.atomic_file import sync
from agent.errors import (
    NotPermittedError,
    OutboxBusyError,
    OutboxCorruptError,
    OutboxError,
    OutboxFailingError,
    OutboxReadOnlyError,
)
from agent.guarded_file import kind_of
from agent.outbox import schema
from agent.outbox.file_errors import BUSY, FULL, error_name, translated

_log = logging.getLogger(__name__)

SQLITE_VERSION = sqlite3.sqlite_version
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
# The same after a wait that ended without the lock: meanwhile no reader is read.
_STILL_BUSY_S = 0.1


def _nothing() -> None:
    """For a callback that is not needed."""


class OutboxFile:
    """Two connections to the file, a writer and a concurrent reader. For several threads.

    After an I/O error both are closed and opened again before the next use: a flush that failed once
    may report success the next time, although its pages never reached the disk. So they are when the log has
    lost its name: the next start would not find it.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        before_open: Callable[[], None] = _nothing,
        reopened: Callable[[], None] = _nothing,
    ) -> None:
        """Open or create, migrate, checkpoint and grow. Raises OutboxError, NotPermittedError.

        `reopened` is called under both locks after the file was opened again, before any other use of it.
        """
        self.path = state_dir / OUTBOX_FILE
        # One writer at a time, so that SQLite never returns BUSY to a thread of this process.
        self.write_lock = threading.RLock()
        self.read_lock = threading.RLock()
        # Commits that were flushed, one flush each. A checkpoint, about every fifty swipes, adds two that
        # SQLite does not report.
        self.flushes = 0
        self._before_open = before_open
        self._reopened = reopened
        self._real_path = self.path
        self._opened: _Files | None = None  # while it is open
        self.open()

    def open(self) -> None:
        """Open both connections; if that fails, the next use tries again."""
        self._must_reopen = True
        with translated(self.path):
            self._before_open()
            is_new = _create(self.path)
            _refuse_newer(self.path)
            self._writer = _connect(self.path, "rw")
            try:
                schema.refuse_newer(self._writer, self.path)
                _prepare(self._writer)
                _migrate(self._writer, self.path)
                _grow_wal(self._writer)
                self._reader = _connect(self.path, "ro")
            except BaseException:
                self._writer.close()
                raise
            if is_new:
                sync(self.path.parent)
            self._real_path = Path(os.path.realpath(self.path))  # as SQLite names the log and its index
            self._opened = _files(self._real_path)
        self._must_reopen = self._is_busy = False

    def close(self) -> None:
        """Close both connections."""
        with self.write_lock, self.read_lock:
            self._opened = None
            self._reader.close()
            self._writer.close()

    def close_for_now(self) -> None:
        """Close both connections until the next use."""
        with self.write_lock, self.read_lock:
            self._must_reopen = True
            self.close()

    def ensure_open(self) -> None:
        """Open the file again if that is due. Raises OutboxUnavailableError."""
        if self._must_reopen or self._is_replaced():
            with self.write_lock, self.read_lock:
                self._reopen()

    def _is_replaced(self) -> bool:
        """Whether the log or its index has lost its name: what is written then goes when the log is closed.

        Another process removes the log when it closes the file, if no lock of this one prevents it: locks end
        with any descriptor of the file that is closed here, and not every file system has them. Without the
        name of the index two processes have two of them, with locks that the other one does not see.
        """
        opened = self._opened
        try:
            return opened is not None and _files(self._real_path) != opened
        except OSError:
            return False  # nothing is known: the disk reports it itself

    def _reopen(self) -> None:
        is_replaced = self._is_replaced()
        if is_replaced:
            self._save_log()
        if self._must_reopen or is_replaced:  # no other thread was quicker
            self._opened = None
            for connection in (self._reader, self._writer):
                with contextlib.suppress(sqlite3.Error):
                    connection.close()
            try:
                self.open()
                self._reopened()
            except BaseException as error:
                self._must_reopen = True
                if isinstance(error, NotPermittedError):
                    raise OutboxReadOnlyError(str(error), hint=error.hint) from error
                raise

    def _save_log(self) -> None:
        """Move a log that has lost its name into the file, before the last descriptor of it is closed.

        SQLite does so at the close only if no other connection has the file open. Raises OutboxBusyError
        while a snapshot of one prevents it.
        """
        _log.warning("outbox: something has removed the log of %s; it is opened again", self.path)
        try:
            if self._opened is not None and self._opened[0] == _files(self._real_path)[0]:
                return  # its index only: the log is read again
            is_busy, *_ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except (OSError, sqlite3.Error) as error:
            _log.error("outbox: what was in the log of %s may be lost: %s", self.path, error)
            return
        if is_busy:
            raise OutboxBusyError(f"{self.path}: its log was removed, and another program reads it")

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, rolled back by an exception.

        `durable`: on disk when it ends. Otherwise a power cut may undo it, though nothing before it;
        its content must be recoverable from elsewhere.
        """
        with self.write_lock:
            self.ensure_open()
            with translated(self.path), self._observed():
                if not durable:
                    self._writer.execute("PRAGMA synchronous=NORMAL")
                changes = self._writer.total_changes
                try:
                    self._writer.execute("BEGIN IMMEDIATE")
                    yield self._writer
                    self._writer.execute("COMMIT")
                    if self._is_replaced():
                        self._must_reopen = True
                        raise OutboxFailingError(f"{self.path}: something has removed its log")
                    if durable and self._writer.total_changes != changes:
                        self.flushes += 1
                except BaseException:
                    self._roll_back()
                    raise
                finally:
                    if not durable:
                        self._flush_again()

    def _roll_back(self) -> None:
        """Undo the transaction; if that fails (without memory, for example), open the file again first."""
        try:
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
        finally:
            self._must_reopen = self._must_reopen or self._writer.in_transaction

    def _flush_again(self) -> None:
        try:
            self._writer.execute("PRAGMA synchronous=FULL")
        except BaseException:
            self._must_reopen = True
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read what is committed; cursors must be exhausted or closed inside."""
        self.ensure_open()
        with self.read_lock, translated(self.path):
            if self._must_reopen:
                raise OutboxFailingError(f"{self.path}: it has to be opened again", hint="try again")
            yield self._reader

    def renew_wal(self) -> bool:
        """Move the WAL into the file, and replace it by a new one of the usual size.

        False if another process reads from it at the moment. Raises OutboxUnavailableError.
        """
        with self.write_lock, self.read_lock:
            self.ensure_open()
            with translated(self.path), self._observed():
                # The pages first, without any lock; then only the truncation has to wait for other processes.
                self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._limit_wait(_STILL_BUSY_S)
                try:
                    is_busy, *_ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                finally:
                    self._limit_wait(_STILL_BUSY_S if self._is_busy else _BUSY_S)
                if not is_busy:
                    _grow_wal(self._writer)
        return not is_busy

    @contextlib.contextmanager
    def _observed(self) -> Iterator[None]:
        """Note what a failure means for the next use of the writing connection."""
        try:
            yield
        except sqlite3.Error as error:
            name = error_name(error)
            if name.startswith("SQLITE_IOERR") and not name.startswith(FULL):
                self._must_reopen = True
            self._wait_for_locks(is_busy=name.startswith(BUSY))
            raise
        self._wait_for_locks(is_busy=False)

    def _wait_for_locks(self, *, is_busy: bool) -> None:
        """Set the wait for a lock: short as long as the last one was not released."""
        if is_busy != self._is_busy:
            self._is_busy = is_busy
            with contextlib.suppress(sqlite3.Error):
                self._limit_wait(_STILL_BUSY_S if is_busy else _BUSY_S)

    def _limit_wait(self, seconds: float) -> None:
        """How long the writing connection waits for a lock of another process."""
        self._writer.execute(f"PRAGMA busy_timeout={int(seconds * 1000)}").fetchall()


def open_external(state_dir: Path, mode: str, *, name: str = OUTBOX_FILE) -> sqlite3.Connection:
    """A connection of another process, "ro" or "rw". Raises OutboxError if there is no file.

    `name`: the name of a quarantined file.
    """
    path = state_dir / name
    with translated(path):
        _refuse_other_kinds(path)
        return _connect(path, mode)


_File = tuple[int, int] | None
_Files = tuple[_File, _File]


def _files(real: Path) -> _Files:
    """The identities of the log and of its index; None for one without a name. Raises OSError."""
    return _identity(Path(f"{real}-wal")), _identity(Path(f"{real}-shm"))


def _identity(path: Path) -> _File:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _create(path: Path) -> bool:
    """Create the file with its mode. Returns False if it already exists."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return False
    return True


def _refuse_other_kinds(path: Path) -> None:
    """Raise OutboxError for what is no regular file: SQLite would block when it opens a FIFO.

    The file itself may be a link to another disk; a process that is not the owner's has given up its rights.
    """
    for side in SIDE_FILES:
        side_file = path.with_name(path.name + side)
        if kind := kind_of(side_file):
            raise OutboxError(
                f"{side_file} is {kind}",
                hint=f"SQLite makes this file itself; move it away: sudo mv {side_file} ...",
            )
    try:
        mode = path.stat().st_mode
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP} or not path.is_symlink():
            return  # absent, or an error that opening it raises again
        what = f"a link to {path.readlink()}, which cannot be followed: is a disk not mounted?"
    else:
        if stat.S_ISREG(mode):
            return
        what = kind_of(path.resolve()) or "no regular file"
    raise OutboxError(
        f"{path} is {what}", hint=f"the outbox has to be a regular file; move this away: sudo mv {path} ..."
    )


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    _refuse_other_kinds(path)
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
        if not error_name(error).startswith("SQLITE_READONLY"):
            raise


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Bring the tables up to date. Raises OutboxCorruptError if they are not those of any version."""
    try:
        schema.migrate(connection)
        schema.check(connection)
    except OutboxCorruptError as error:
        raise OutboxCorruptError(f"{path}: {error}") from error
    except sqlite3.OperationalError as error:
        # "no such table", "duplicate column name": a damaged text of the schema, or a damaged version.
        if error_name(error) != "SQLITE_ERROR":
            raise
        raise OutboxCorruptError(f"{path}: the schema is damaged ({error})") from error


def _prepare(connection: sqlite3.Connection) -> None:
    for pragma in (
        f"page_size={PAGE_BYTES}",  # only takes effect on a file that has no table yet
        "journal_mode=WAL",
        "synchronous=FULL",
        f"wal_autocheckpoint={_CHECKPOINT_PAGES}",
        "journal_size_limit=-1",  # keep the grown WAL: overwriting allocated space is cheap
        "secure_delete=ON",  # no badge id of a purged row stays in a free page
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
        if not error_name(error).startswith("SQLITE_FULL"):
            raise
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _grow_wal(connection: sqlite3.Connection) -> None:
    """Write a table and drop it, so that the space of the WAL stays allocated."""
    with _room_permitting(connection):
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE scratch(filler BLOB)")
        connection.execute("INSERT INTO scratch VALUES (zeroblob(?))", (_GROWN_WAL_BYTES,))
        connection.execute("DROP TABLE scratch")
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
