"""Durable queue of swipes: stored before acknowledged, kept until committed plus the retention time.

Theory of operation

One SQLite file per state directory holds every swipe that is not yet known to be in Snowflake, and
committed ones for the retention time. Rows are numbered by `n` for the life of the file:

      purged       kept for replay          pending             next swipe
    |---------|------------------------|----------------------|............> n
              oldest row          committed_n              last_n

A row goes PENDING -> COMMITTED -> PURGED. Snowflake's committed offset token alone moves
`committed_n`, which never goes back within one outbox id. A row that Snowflake refuses on its own
for an hour, while it commits later ones, is SET ASIDE: it stays in the file, is passed over, and an
operator releases or replays it.

    generation           one outbox id, for the rows from its first_n up to the next generation
    seq                  n - first_n + 1: the number in the row as sent and in the offset token

A stored row has no position: outbox id and seq are added when it is sent. A new generation is therefore
one small write at committed_n + 1. Several generations may have pending rows; they are sent in order.

Invariants
- `n` is never reused: not after a purge, not in a rebuilt file, not in a new generation.
- A pending row is never deleted; purging takes committed rows only, and none that is held or in a replay.
- Every row, the state record and the generations prove themselves by a checksum (records). A damaged row
  is held for an operator and passed over; anything else that fails is OutboxCorruptError.
- An outbox id names one history. Whenever another history may have been sent under the id (damaged,
  copied or restored file), the outbox takes a new id before anything else is sent.
- Rows go to another channel only after the one used before was fenced and asked (channel_use).
- Not flushed means recoverable: `committed_n` is written without a flush, because after a power cut the
  token of the channel gives it again. Swipes, rows set aside and the curves that batches are sent
  with are flushed, because nothing else knows them.

Parts, and who may change what
- state_lock: one agent per state directory, and one process that has the outbox open. Others
  (agent.outbox.external) add and release holds and replays, never rows.
- recovery.recovering_file.RecoveringFile: the open file, and `state`, an immutable value that is assigned
  under the write lock together with the transaction it describes. Damage is handled there and only
  there: the file is replaced, and whoever holds a position gets OutboxReplacedError.
- writer.SwipeWriter: the only one that appends rows. `last_n` and `last_chain` change there.
- event_writer.EventWriter: appends door events, which have tables of their own (event_store).
- channels.OutboxChannels, the base of Outbox: the recorded channels, a new outbox id.
- Outbox (this module): `committed_n`, the rows set aside, the suspects, the applied curves.
- live_rows, replay_rows: the order and the tokens of what is sent; they read through reading(), and
  change the state through the methods of Outbox alone.

Threads: the writer calls keep(), the uploader everything else; check_integrity() and recover_step() have a
thread of their own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from agent.clock.offset_model import OffsetSample
from agent.clock.reading import ClockReading
from agent.errors import OutboxError, OutboxFullError, OutboxReplacedError, OutboxUnavailableError
from agent.log.message_ids import MessageId, fields
from agent.outbox import generation, holds, retention
from agent.outbox.channels import OutboxChannels
from agent.outbox.event_writer import EventWriter
from agent.outbox.file_errors import damaged_again
from agent.outbox.recovery.recovering_file import RecoveringFile
from agent.outbox.recovery.row_mover import RowMover
from agent.outbox.reserve import Reserve
from agent.outbox.row_source import ErrorCount, Position, Rejected
from agent.outbox.state import write_record
from agent.outbox.state_lock import OutboxLock, StateLock
from agent.outbox.timing import boot_table, timestamps
from agent.outbox.timing.timestamps import AppliedCurve
from agent.outbox.writer import SwipeWriter
from agent.swipe import Swipe

_log = logging.getLogger(__name__)


class Outbox(OutboxChannels):
    """The agent's outbox file; one instance per state directory, for several threads.

    A damaged file is replaced by a new one, also in the middle of a call: keep() continues with the
    new file, the other methods raise OutboxReplacedError. Rows are sent again after recover_step() has
    moved the old ones. Every method raises
    OutboxUnavailableError while the file cannot be written or read: try again later.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        agent_id: str,
        pipe: str = "",
        machine_id: str = "",
        reserve_bytes: int = 0,
        lock: StateLock | None = None,
    ) -> None:
        """Open or create. Raises OutboxVersionError, OutboxError, NotPermittedError.

        OutboxBusyError while another process has it open. `pipe` is the key of the pipe that rows are sent
        to; another one than before means another channel. A `machine_id` other than the stored one means a
        copied card. "" skips these checks. `lock`: of an agent; close() releases it, a failure here does not.
        """
        self.agent_id = agent_id
        self.pipe = pipe
        self._lock = lock
        self._open_lock = OutboxLock(state_dir)
        try:
            self._reserve = Reserve(state_dir, reserve_bytes)
            self._file = RecoveringFile(state_dir, self._reserve)
            self.boots = self._file.boots
            self._writer = SwipeWriter(self._file, agent_id)
            self.door_events = EventWriter(self._file, agent_id)
            self._mover = RowMover(self._file, state_dir)
            self._wal_erasure = retention.WalErasure(self.file)
            try:
                self._bring_up_to_date(machine_id)
            except BaseException:
                self._file.close()
                raise
        except BaseException:
            self._open_lock.release()
            raise
        self._reserve.fill()

    def _bring_up_to_date(self, machine_id: str) -> None:
        """The first changes of an opened file: where they find damage, those of the file that replaces it."""
        try:
            self._check_machine(machine_id)
            self._purge_old_times()
        except OutboxReplacedError:
            with damaged_again():
                self._check_machine(machine_id)
                self._purge_old_times()

    def _check_machine(self, machine_id: str) -> None:
        known = self.state.record.machine_id
        # The request first: after a power cut in between, two doors must not share one id.
        if known and machine_id and known != machine_id:
            self.boots.mark_relocated()
            self.request_generation("the machine is another one: was the SD card copied?")
        if machine_id not in {"", known}:
            self._store(machine_id=machine_id)

    def _purge_old_times(self) -> None:
        """Delete boots, curves and generations that no row needs any more; without room, another time."""
        if self.state.recoveries:
            return  # the rows that need them are not there yet
        with contextlib.suppress(OutboxFullError), self._file.changing(durable=False) as connection:
            boot_table.forget_old(connection, self.state.committed_n)
            timestamps.forget_old(connection)
            generation.forget_old(connection, self.state)

    def close(self) -> None:
        """Close the file and release the state directory."""
        with contextlib.suppress(OutboxError):
            self._save_boots(self.file.writing())  # the end of this boot bounds the times of the next
        self._mover.close()
        self._file.close()
        self._open_lock.release()
        if self._lock is not None:
            self._lock.release()

    # --- state --------------------------------------------------------------------------------

    @property
    def last_seq(self) -> int:
        """The seq of the newest swipe of the generation that is being sent; 0 before the first."""
        return self.state.last_seq

    @property
    def committed_seq(self) -> int:
        """Every seq of this generation up to this one is in Snowflake, or set aside."""
        return self.state.committed_seq

    @property
    def pending(self) -> int:
        """Swipes not yet known to be committed, without those set aside."""
        return self.state.pending

    @property
    def set_aside_numbers(self) -> frozenset[int]:
        """The numbers `n` of the rows set aside."""
        return self.state.set_aside_numbers

    @property
    def needs_inspection(self) -> threading.Event:
        """Set when check_integrity() or recover_step() has something to do."""
        return self._file.needs_inspection

    @property
    def is_disk_full(self) -> bool:
        """The disk was full, and the reserve has not been refilled: committed rows should be purged."""
        return self._reserve.gave_way

    # --- swipes and the clock -----------------------------------------------------------------

    def keep(self, *swipes: Swipe) -> None:
        """Store swipes in order; they are on disk when this returns.

        Raises OutboxUnavailableError if they cannot be stored now, else OutboxError; then none of them is.
        """
        self._writer.keep(swipes)

    def observe_clock(self, now: ClockReading, server: OffsetSample | None = None) -> None:
        """Add an observation of this machine's clocks, and one of a server's; stored if it changes much.

        An outbox that cannot be written now, or was replaced, raises nothing: the clock is observed again.
        """
        self.boots.observe(now, server)
        if self.boots.has_news:
            with contextlib.suppress(OutboxUnavailableError, OutboxReplacedError):
                self._save_boots(self._file.writing())

    def _save_boots(self, transaction: AbstractContextManager[sqlite3.Connection]) -> None:
        with transaction as connection:
            saved = self.boots.unsaved()
            boot_table.write(connection, saved.values())
        self.boots.saved(saved)

    # --- for the row sources ------------------------------------------------------------------

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read what is committed; cursors must be exhausted or closed inside.

        Raises OutboxReplacedError after the file turned out to be damaged and was replaced.
        """
        with self._file.reading() as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self, *, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """One transaction for tables that are no part of `state`; if `durable`, on disk when it ends.

        Raises OutboxReplacedError as reading() does.
        """
        with self._file.writing(durable=durable) as connection:
            yield connection

    def writing_with_reserve(self) -> Iterator[AbstractContextManager[sqlite3.Connection]]:
        """As writing(), repeated with the rest of the reserve: `for attempt in ...: with attempt as ...`."""
        return self._file.writing_with_reserve()

    def mark_committed(
        self, n: int, *, channel: str, errors: ErrorCount, rejected: Rejected | None
    ) -> list[int]:
        """Everything up to row `n` is committed; a smaller `n` than before only stores the error count.

        A suspect before row `n` and the rows between them are set aside in the same transaction, and
        returned. Only then it is flushed: otherwise the channel's token gives the position again after a
        power cut, but a later token would set aside more rows.
        Raises OutboxReplacedError if there is no row `n`.
        """
        aside: list[int] = []
        with self.file.write_lock:
            record = self.state.record
            is_passed = 0 < record.suspect_n < n and n > record.committed_n
            for attempt in self._file.writing_with_reserve(durable=is_passed):
                with attempt as connection:
                    record = self.state.record
                    if n > record.committed_n:
                        found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (n,)).fetchone()
                        if found is None:
                            raise OutboxReplacedError(f"there is no swipe {n}", hint="sending starts again")
                        if is_passed:
                            held = self.set_aside_numbers - {record.suspect_n}
                            aside = holds.refused_before(connection, n, record.suspect_n, held)
                            holds.set_aside_refused(connection, aside)
                        record = record._replace(
                            committed_n=n,
                            committed_chain=found[0],
                            switches=0,
                            suspect_n=0 if is_passed else record.suspect_n,
                        )
                        write_record(connection, record)
                    holds.note_errors(connection, channel, errors)
                    if rejected is not None:
                        holds.reject(connection, rejected.after[1] + 1, rejected.last[1], rejected.reason)
            numbers = self.set_aside_numbers.union(aside)
            self._file.state = dataclasses.replace(self.state, record=record, set_aside_numbers=numbers)
        return aside

    def apply_curves(self, new: Sequence[AppliedCurve]) -> None:
        """Store the offset curves that rows are about to be sent with; on disk when it returns."""
        if not new:
            return
        with self.file.write_lock:
            for attempt in self._file.writing_with_reserve():
                with attempt as connection:
                    timestamps.write(connection, new)
            applied = self.state.applied_curves.with_new(new)
            self._file.state = dataclasses.replace(self.state, applied_curves=applied)

    def set_aside(self, n: int, reason: str) -> None:
        """Hold row `n` for an operator; on disk when it returns."""
        with self.file.write_lock:
            with self._file.writing() as connection:
                holds.set_aside(connection, n, reason)
            self._replace_set_aside(self.set_aside_numbers | {n})

    def check_again(self) -> None:
        """Have the file checked again, because something in it was damaged."""
        self._file.check_again()

    def hold_damaged(self, numbers: Sequence[int]) -> None:
        """Hold rows whose checksums failed: later rows are sent, and the file is checked again."""
        for n in numbers:
            self.set_aside(n, "damaged on the disk: its checksum failed")
            _log.error(
                "outbox: swipe %d is damaged on the disk and is not sent; see badge-agent outbox list",
                n,
                extra=fields(MessageId.ROW_SET_ASIDE),
            )
        if numbers:
            self.check_again()

    def hold_lost(self, first_n: int, last_n: int) -> None:
        """Hold numbers of which no row is in the file, so that the rows after them are sent."""
        with self._file.changing() as connection:
            holds.hold_lost(connection, first_n, last_n, "lost: not in the file")

    def replay_again(self, first_n: int, last_n: int) -> None:
        """Queue a replay of committed rows that the server lost, once; on disk when it returns."""
        with self._file.writing() as connection:
            connection.execute(
                """INSERT INTO replays(first_n, last_n) SELECT ?1, ?2
                   WHERE NOT EXISTS (SELECT 1 FROM replays WHERE first_n <= ?1 AND last_n >= ?2)""",
                (first_n, last_n),
            )

    def mark_suspect(self, n: int) -> None:
        """Pass over row `n`, and no longer over the suspect before it; 0 for none. On disk on return."""
        with self.file.write_lock:
            numbers = self.set_aside_numbers - {self.state.record.suspect_n}
            self._store(suspect_n=n)
            self._replace_set_aside(numbers | {n} if n else numbers)

    def mark_replay_suspect(self, position: Position) -> None:
        """As mark_suspect(), for the row of a replay; (0, 0) for none."""
        replay_id, n = position
        with self.file.write_lock:
            self._store(suspect_replay_id=replay_id, suspect_replay_n=n)

    def set_aside_replay_rows(self, numbers: Sequence[int]) -> None:
        """Hold the suspect of the replays and the rows refused after it; on disk on return."""
        for attempt in self._file.changing_with_reserve():
            with attempt as connection:
                holds.set_aside_refused(connection, numbers)
                write_record(connection, self.state.record._replace(suspect_replay_id=0, suspect_replay_n=0))

    def _replace_set_aside(self, numbers: frozenset[int]) -> None:
        self._file.state = dataclasses.replace(self.state, set_aside_numbers=numbers)

    # --- maintenance --------------------------------------------------------------------------

    def purge(self, *, kept_since_us: int | None, max_bytes: int, final_n: int | None = None) -> int:
        """Free committed rows read before a moment of the trusted clock; returns how many were freed.

        One bounded step; 0 after the last. None for a clock that is not trusted: then no row is too
        old. Above `max_bytes` the oldest rows are freed whatever their age. Pending rows are never
        freed, nor rows after `final_n`, held for an operator or waiting for a replay. What is left of
        purged rows in the write-ahead log is overwritten within a day.
        """
        freed = retention.purge(self._file, kept_since_us=kept_since_us, max_bytes=max_bytes, final_n=final_n)
        self._wal_erasure.after_step(freed)
        if freed:
            self._purge_old_times()
        return freed

    def refill_reserve(self) -> None:
        """Make the reserve whole again once the disk has room."""
        self._reserve.fill()

    def free_reserve(self) -> None:
        """Free the whole reserve for swipes that would be lost otherwise; the next start fills it again."""
        self._reserve.free_rest()

    def check_integrity(self) -> None:
        """Check a file that was too large to be checked at open, once; replace it if it is damaged.

        Reads the whole file in parallel with incoming swipes: call it in a thread of its own.
        """
        self._file.check_integrity()

    def recover_step(self) -> bool:
        """Move some rows of a quarantined file to this one; False if there are none.

        One bounded step, in parallel with incoming swipes: call it in a thread of its own, and close the
        outbox only after that has ended. Raises OutboxUnavailableError, OutboxReplacedError: call it again.
        """
        return self._mover.step()
