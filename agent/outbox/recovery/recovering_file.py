"""The outbox file, replaced by a new one when it is found damaged: the only module that does so."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from agent.clock.boot_history import BootHistory
from agent.errors import OutboxCorruptError, OutboxFullError, OutboxReplacedError
from agent.log.message_ids import MessageId, fields
from agent.outbox.database import OUTBOX_FILE, OutboxFile
from agent.outbox.file_errors import damaged_again
from agent.outbox.recovery import integrity, rebuild
from agent.outbox.recovery.hidden_frames import hides_commits
from agent.outbox.reserve import Reserve
from agent.outbox.state import OutboxState, write_record
from agent.outbox.timing import boot_table

_log = logging.getLogger(__name__)

# A file up to this size is checked before the first swipe; a larger one in parallel with new swipes.
_CHECKED_AT_OPEN_BYTES = 16_000_000

_Transaction = Callable[[], AbstractContextManager[sqlite3.Connection]]


class RecoveringFile:
    """The open outbox file and the state read from it. A damaged file is replaced by a new one.

    Its rows are moved afterwards, by RowMover.

    `state` is an immutable value. Only a thread that holds `file.write_lock` assigns it, in the same
    hold as the transaction that it describes; any thread may read it without a lock.
    """

    def __init__(self, state_dir: Path, reserve: Reserve) -> None:
        """Open or create. Raises OutboxVersionError, OutboxError, NotPermittedError."""
        self._state_dir = state_dir
        self.reserve = reserve
        self.boots = BootHistory()
        self.state: OutboxState
        # Set when the file has to be checked, or rows of a quarantined file are to be moved to it.
        self.needs_inspection = threading.Event()
        self._is_checked = False
        # False from a replacement until the state of the new file is read.
        self._is_state_of_file = False
        self.file = self._open_with_reserve()
        with contextlib.suppress(OSError):  # copies of earlier versions have no mark
            rebuild.remove_copies(self._state_dir, self.state.recoveries)
        if not self._is_checked or self.state.recoveries:
            self.needs_inspection.set()

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    # --- opening --------------------------------------------------------------------------------

    def _open_with_reserve(self) -> OutboxFile:
        """Open and read the state; on a full disk free the reserve first."""
        try:
            file = self._open()
        except OutboxFullError:
            self.reserve.free_rest()
            file = self._open()
        try:
            self._read_or_replace(file)
        except BaseException:
            file.close()
            raise
        return file

    def _read_or_replace(self, file: OutboxFile) -> None:
        try:
            self.read_state(file)
        except OutboxCorruptError as error:
            file.close()
            self._replace(error)
            with damaged_again():
                file.open()
                self.read_state(file)

    def _open(self) -> OutboxFile:
        try:
            file = self._new_file()
        except OutboxCorruptError as error:
            self._replace(error)
            with damaged_again():
                return self._new_file()
        if file.path.stat().st_size <= _CHECKED_AT_OPEN_BYTES:
            fault = integrity.fault_in(self._state_dir)
            if fault is not None:
                file.close()
                self._replace(fault)
                with damaged_again():
                    file.open()
            self._is_checked = True
        return file

    def _replace(self, fault: OutboxCorruptError, known: OutboxState | None = None) -> None:
        """Replace the closed file; on a full disk free the reserve first."""
        try:
            rebuild.replace(self._state_dir, fault, known=known)
        except OutboxFullError:
            self.reserve.free_rest()
            rebuild.replace(self._state_dir, fault, known=known)

    def _new_file(self) -> OutboxFile:
        return OutboxFile(
            self._state_dir,
            before_open=self._before_open,
            reopened=self._reconcile,
        )

    def _before_open(self) -> None:
        rebuild.finish_interrupted(self._state_dir)
        path = self._state_dir / OUTBOX_FILE
        if hides_commits(path):
            raise OutboxCorruptError(f"{path}-wal: commits come after bytes that have changed")

    def _reconcile(self) -> None:
        """After the file was opened again: agree with what is in it.

        A transaction that failed in its flush may be in the file after all. Its swipes were reported as
        not stored and are offered again, so they are deleted; any other change is taken over. The committed
        position never goes back: it is not flushed, so the file may have an older one. Raises
        OutboxCorruptError if rows that were stored are missing: their numbers must not be used again.
        """
        known = self.state
        try:
            self._agree_with_file(known)
        except BaseException:
            self.state = known  # what the next attempt has to compare with
            raise

    def _agree_with_file(self, known: OutboxState) -> None:
        self.read_state(self.file)
        if self.state.outbox_id != known.outbox_id:
            _log.error(
                "outbox: %s was replaced by another file; %d swipes of the one before were not confirmed",
                self.file.path,
                known.last_n - known.committed_n,
                extra=fields(MessageId.SWIPES_LOST),
            )
            return
        if self.state.last_n < known.last_n:
            raise OutboxCorruptError(f"{self.file.path}: stored swipes are missing")
        if self.state.committed_n < known.committed_n:
            with self.file.writing() as connection:
                write_record(connection, known.record)
            self.read_state(self.file)
        if self.state.last_n > known.last_n:
            with self.file.writing() as connection:
                connection.execute("DELETE FROM swipes WHERE n > ?", (known.last_n,))
            self.read_state(self.file)

    def read_state(self, file: OutboxFile) -> None:
        """Load `state` and `boots` from the file. Raises OutboxCorruptError."""
        with file.reading() as connection:
            try:
                state = OutboxState.read(connection)
            except OutboxCorruptError as error:
                raise OutboxCorruptError(f"{file.path}: {error}") from error
            known, last_boot = boot_table.read(connection), boot_table.last_number(connection)
        self.boots.load(known, last_boot)
        self.state, self._is_state_of_file = state, True
        if state.recoveries:
            # Not before: the inspector would find nothing to move, and wait again.
            self.needs_inspection.set()

    # --- access ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read what is committed; cursors must be exhausted or closed inside.

        Raises OutboxReplacedError after the file turned out to be damaged and was replaced.
        """
        outbox_id = self.state.outbox_id
        with self.recovering(), self.file.reading() as connection:
            self._check_same(outbox_id)
            yield connection

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction, as OutboxFile.writing(). Raises OutboxReplacedError as reading() does."""
        outbox_id = self.state.outbox_id
        with self.recovering(), self.file.writing(durable=durable) as connection:
            self._check_same(outbox_id)
            yield connection

    @contextlib.contextmanager
    def changing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """As writing(), for what `state` is read from: after the transaction it is as the file has it.

        It is read before the commit: a failure after that would leave an older state in memory. Inside,
        `state` is that of the file, also if it had to be opened again.
        """
        with self.file.write_lock:
            with self.writing(durable=durable) as connection:
                yield connection
                after = OutboxState.read(connection)
            self.state = after

    def _check_same(self, outbox_id: str) -> None:
        """Raise OutboxReplacedError if the file was opened again meanwhile and is another."""
        if self.state.outbox_id != outbox_id:
            raise OutboxReplacedError("the outbox has a new id", hint="sending starts again")

    def changing_with_reserve(self) -> Iterator[AbstractContextManager[sqlite3.Connection]]:
        """As writing_with_reserve(), with transactions of changing()."""
        return self._attempts(self.changing)

    def writing_with_reserve(
        self, *, durable: bool = True
    ) -> Iterator[AbstractContextManager[sqlite3.Connection]]:
        """At most two attempts at one transaction, for what makes rows purgeable.

        Use: `for attempt in ...: with attempt as connection: ...`. On a full disk the first attempt
        is undone, the rest of the reserve is freed and the body runs again. The loop ends after
        the attempt that was committed; the second attempt raises OutboxFullError.
        """
        return self._attempts(lambda: self.writing(durable=durable))

    def _attempts(self, begin: _Transaction) -> Iterator[AbstractContextManager[sqlite3.Connection]]:
        failed: list[OutboxFullError] = []
        yield self._first_attempt(failed, begin)
        if failed:
            self.reserve.free_rest()
            yield begin()

    @contextlib.contextmanager
    def _first_attempt(
        self, failed: list[OutboxFullError], begin: _Transaction
    ) -> Iterator[sqlite3.Connection]:
        has_begun = False
        try:
            with begin() as connection:
                has_begun = True
                yield connection
        except OutboxFullError as error:
            if has_begun:
                failed.append(error)
        if not has_begun:  # no room even to begin, for the index of the WAL: the body has not run yet
            self.reserve.free_rest()
            with begin() as connection:
                yield connection

    # --- recovery -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def recovering(self) -> Iterator[None]:
        """Replace the file if the body finds it damaged, then raise OutboxReplacedError.

        The body is not repeated: a position that the caller holds means nothing in the new file.
        """
        outbox_id = self.state.outbox_id
        try:
            yield
        except OutboxCorruptError as error:
            self.rebuild(error, outbox_id)
            raise OutboxReplacedError(
                f"{self.file.path} was damaged and replaced", hint="sending starts again with the new outbox"
            ) from error

    def rebuild(self, fault: OutboxCorruptError, outbox_id: str) -> None:
        """Replace the file in which the fault was found, unless another thread has already done so.

        Takes the time of a few small queries: the rows are moved later.

        `outbox_id` is the id that the file had when the fault was found: a rebuilt file has another.
        """
        with self.file.write_lock, self.file.read_lock:
            if self.state.outbox_id != outbox_id:
                return
            # If anything fails, the next use opens the file: on a full disk the damaged one stays in use.
            self.file.close_for_now()
            self._replace(fault, self.state if self._is_state_of_file else None)
            self._is_state_of_file = False
            with damaged_again():
                self.file.ensure_open()

    def check_again(self) -> None:
        """Have the next check_integrity() check the file, although it was checked."""
        self._is_checked = False
        self.needs_inspection.set()

    def check_integrity(self) -> None:
        """Check a file that is not checked yet, and replace it if it is damaged."""
        if self._is_checked:
            return
        self._is_checked = True
        outbox_id = self.state.outbox_id
        try:
            fault = integrity.fault_in(self._state_dir)
        except BaseException:
            self._is_checked = False
            raise
        if fault is not None:
            self.rebuild(fault, outbox_id)
