"""Keep a swipe on disk before anything else happens, and until it is committed, and a while longer."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from agent import rows
from agent.clock.boot_history import BootHistory
from agent.clock.offset_model import OffsetSample
from agent.clock.reading import ClockReading
from agent.errors import OutboxCorruptError, OutboxError, OutboxFullError, OutboxReplacedError
from agent.log.message_ids import MessageId, fields
from agent.outbox import generation, retention, schema
from agent.outbox.database import OutboxFile
from agent.outbox.recovery import integrity, rebuild
from agent.outbox.reserve import Reserve
from agent.outbox.state_lock import StateLock
from agent.outbox.timing import boot_table, timestamps
from agent.outbox.timing.timestamps import AppliedCurve, AppliedCurves
from agent.swipe import Swipe

_log = logging.getLogger(__name__)

T = TypeVar("T")

# A file up to this size is looked through before the first swipe; a larger one while they come.
_CHECKED_AT_OPEN_BYTES = 16_000_000


@dataclass(slots=True)
class _Ticket:
    """Swipes waiting for the commit that will carry them."""

    swipes: Sequence[Swipe]
    done: bool = False
    error: BaseException | None = None


@dataclass(slots=True)
class OutboxState:
    """What the file says of itself; kept in memory because one agent alone changes it.

    `n` numbers rows for the life of the file; a row's seq is n - base.
    """

    outbox_id: str
    base: int
    last_n: int
    last_chain: str
    committed_n: int
    committed_chain: str


class Outbox:
    """The agent's outbox file; one instance at a time per state directory, safe for several threads.

    A damaged file is replaced by what can be read of it, in the middle of a call if need be:
    keep() goes on, calls that hold a position raise OutboxReplacedError. Every method raises
    OutboxError when the disk fails.
    """

    def __init__(
        self, state_dir: Path, *, agent_id: str, machine_id: str = "", reserve_bytes: int = 0
    ) -> None:
        """Open or create. Raises OutboxInUseError, OutboxVersionError, OutboxError, NotPermittedError.

        `machine_id` tells a copied card from the one it was copied from.
        """
        self.agent_id = agent_id
        self._state_dir = state_dir
        self.set_aside_numbers: set[int] = set()  # replaced, never changed: other threads look at it
        # The file is being rebuilt, or takes a new id: with millions of rows every call waits for minutes.
        self.is_rebuilding = False
        self.boots = BootHistory()
        self.used_timings = AppliedCurves()  # replaced, never changed, as above
        self._lock = StateLock(state_dir)
        self._reserve = Reserve(state_dir, reserve_bytes)
        self._queueing = threading.Lock()
        self._waiting: list[_Ticket] = []
        self._looked_through = False
        try:
            self.file = self._open_somehow(state_dir)
            try:
                self._check_machine(machine_id)
                self._forget_old_times()
            except BaseException:
                self.file.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._reserve.fill()

    def _open_somehow(self, state_dir: Path) -> OutboxFile:
        """Open; a full disk is given its reserve, a file that shows its damage only now is replaced."""
        try:
            file = self._open(state_dir)
        except OutboxFullError:
            self._reserve.free_rest()
            file = self._open(state_dir)
        try:
            self._read_state(file)
        except OutboxCorruptError as error:
            file.close()
            rebuild.replace(state_dir, error)
            file.open()
            self._read_state(file)
        except BaseException:
            file.close()
            raise
        return file

    def _open(self, state_dir: Path) -> OutboxFile:
        rebuild.finish_interrupted(state_dir)
        try:
            file = OutboxFile(state_dir)
        except OutboxCorruptError as error:
            rebuild.replace(state_dir, error)
            return OutboxFile(state_dir)
        if file.path.stat().st_size <= _CHECKED_AT_OPEN_BYTES:
            fault = integrity.fault_in(state_dir)
            if fault is not None:
                file.close()
                rebuild.replace(state_dir, fault)
                file.open()
            self._looked_through = True
        return file

    def _read_state(self, file: OutboxFile) -> None:
        with file.reading() as connection:
            state = connection.execute(
                "SELECT outbox_id, base, committed_n, committed_chain FROM state"
            ).fetchone()
            if state is None or not schema.is_sound(connection, *state):
                raise OutboxCorruptError(f"{file.path}: its state is damaged")
            outbox_id, base, committed_n, committed_chain = state
            # Only behind the high-water mark: older rows may be held while newer ones were purged.
            newest = connection.execute(
                "SELECT n, chain FROM swipes WHERE n > ? ORDER BY n DESC LIMIT 1", (committed_n,)
            )
            # Without a row the last one is committed; the high-water mark remembers it.
            last_n, last_chain = newest.fetchone() or (
                committed_n,
                committed_chain or rows.first_link(outbox_id),
            )
            aside = connection.execute("SELECT first_n FROM held WHERE kind = 'set_aside'").fetchall()
            known, used = boot_table.read(connection), AppliedCurves.read(connection)
            last_boot = boot_table.last_number(connection)
        self.boots.load(known, last_boot)
        self.used_timings = used
        self.state = OutboxState(outbox_id, base, last_n, last_chain, committed_n, committed_chain)
        self.set_aside_numbers = {n for (n,) in aside}

    def _check_machine(self, machine_id: str) -> None:
        with self.file.reading() as connection:
            (known,) = connection.execute("SELECT machine_id FROM state").fetchone()
        if machine_id in {"", known}:
            return
        # The identity first: a power cut in between must not leave two doors with one.
        if known:
            self.boots.mark_relocated()
            self.start_generation("it woke up on another machine: was the SD card copied?")
        with self.file.writing() as connection:
            connection.execute("UPDATE state SET machine_id = ?", (machine_id,))

    def _forget_old_times(self) -> None:
        with contextlib.suppress(OutboxFullError), self.file.writing(durable=False) as connection:
            boot_table.forget_old(connection, self.state.committed_n)
            timestamps.forget_old(connection)

    # --- taking swipes ------------------------------------------------------------------------

    def keep(self, *swipes: Swipe) -> None:
        """Store swipes in order; they are on disk when this returns.

        Raises OutboxFullError or OutboxError, then none of them is stored. Calls that arrive while
        another one is being written share the next commit: whoever gets the file first carries
        everybody who waits.
        """
        ticket = _Ticket(swipes)
        with self._queueing:
            self._waiting.append(ticket)
        with self.file.write_lock:
            if not ticket.done:
                with self._queueing:
                    tickets, self._waiting = self._waiting, []
                self._commit(tickets)
        if ticket.error is not None:
            raise ticket.error

    def _commit(self, tickets: list[_Ticket]) -> None:
        swipes = [swipe for ticket in tickets for swipe in ticket.swipes]
        try:
            self._insert_somehow(swipes)
        except BaseException as error:  # noqa: BLE001 - it belongs to every waiting caller, who raise it
            for ticket in tickets:
                ticket.error = error
        for ticket in tickets:
            ticket.done = True

    def _insert_somehow(self, swipes: list[Swipe]) -> None:
        """Insert; a damaged file is replaced first, a full disk is given its reserve and old rows."""
        try:
            self._insert(swipes)
        except OutboxCorruptError as error:
            self._rebuild(error, self.outbox_id)
            self._insert(swipes)
        except OutboxFullError:
            self._reserve.free()
            with contextlib.suppress(OutboxReplacedError):
                self.purge(kept_since_us=None, max_bytes=0)
            self._insert(swipes)

    def _insert(self, swipes: list[Swipe]) -> None:
        me = self.state
        n, chain = me.last_n, me.last_chain
        stored: list[tuple[int, str, int | None, bytes, int, int]] = []
        for swipe in swipes:
            n += 1
            place = rows.RowPosition(me.outbox_id, n - me.base, str(uuid.uuid4()), chain)
            boot, read_at = self.boots.observe(swipe.read_at)
            if read_at is not swipe.read_at:
                swipe = dataclasses.replace(swipe, read_at=read_at)  # noqa: PLW2901 - the same swipe
            chain, row = rows.render(swipe, place, agent_id=self.agent_id)
            trusted_us = read_at.wall_us if read_at.trusted else None
            stored.append((n, chain, trusted_us, row, boot, read_at.boot_us))
        # What the swipes tell of the clock goes along, so that it costs no flush of its own.
        written = None
        with self.file.writing() as connection:
            connection.executemany("INSERT INTO swipes VALUES (?, ?, ?, ?, ?, ?)", stored)
            if self.boots.has_news:
                written = self.boots.unsaved()
                boot_table.write(connection, written.values())
        if written is not None:
            self.boots.saved(written)
        me.last_n, me.last_chain = n, chain

    # --- the time of a swipe ------------------------------------------------------------------

    def look(self, now: ClockReading, server: OffsetSample | None = None) -> None:
        """Learn from the clocks of this moment, and from what a server's clock said; written down if news.

        A disk that takes no more is no fault here: what is not written down is seen again.
        """
        self.boots.observe(now, server)
        if self.boots.has_news:
            with contextlib.suppress(OutboxFullError, OutboxReplacedError):
                self.surviving(self._write_boots)

    def _write_boots(self) -> None:
        with self.file.writing() as connection:
            written = self.boots.unsaved()
            boot_table.write(connection, written.values())
        self.boots.saved(written)

    def use_timings(self, new: Sequence[AppliedCurve]) -> None:
        """Write down with which timings rows are about to go; on disk when it returns."""
        if not new:
            return

        def note() -> None:
            with self.file.writing() as connection:
                timestamps.write(connection, new)

        self.settle(note)
        self.used_timings = self.used_timings.with_new(new)

    # --- a damaged file -----------------------------------------------------------------------

    def check_integrity(self) -> None:
        """Check a file too large to be checked at the start, and replace it if it is damaged.

        Runs beside the swipes that come in, in a thread of its own.
        """
        if self._looked_through:
            return
        self._looked_through = True
        outbox_id = self.outbox_id
        fault = integrity.fault_in(self._state_dir)
        if fault is not None:
            self._rebuild(fault, outbox_id)

    def surviving(self, operation: Callable[[], T]) -> T:
        """Run something that holds a position. Raises OutboxReplacedError after the file was replaced."""
        outbox_id = self.outbox_id
        try:
            return operation()
        except OutboxCorruptError as error:
            self._rebuild(error, outbox_id)
            raise OutboxReplacedError(
                f"{self.file.path} was damaged and replaced", hint="sending starts again with the new outbox"
            ) from error

    def settle(self, operation: Callable[[], T]) -> T:
        """As surviving(), for what makes rows purgeable: it may use the last of the reserve."""
        try:
            return self.surviving(operation)
        except OutboxFullError:
            self._reserve.free_rest()
            return self.surviving(operation)

    def _rebuild(self, fault: OutboxCorruptError, outbox_id: str) -> None:
        """Replace the file in which the fault was found, unless another thread was faster."""
        with self.file.write_lock, self.file.read_lock, self._rebuilding():
            if self.outbox_id != outbox_id:
                return
            self.file.close()
            try:
                rebuild.replace(self._state_dir, fault, last_n=self.state.last_n)
            finally:
                self.file.open()  # a full disk: the damaged file goes on until there is room for another
            self._read_state(self.file)

    # --- a new identity -----------------------------------------------------------------------

    def start_generation(self, why: str) -> None:
        """Take a new outbox id; pending rows move to it, with a seq from 1 and the same event_id.

        For when another history may have been sent under the old id. Rows that were on their way
        may arrive twice, with the same event_id; none is swallowed.
        """
        with self.file.write_lock, self._rebuilding():
            old = self.state
            with self.file.writing() as connection:
                generation.renew(
                    connection, committed_n=old.committed_n, last_n=old.last_n, aside=self.set_aside_numbers
                )
            self._read_state(self.file)
        _log.error(
            "outbox: %s is now %s, because %s; %d pending swipes move to it",
            old.outbox_id,
            self.outbox_id,
            why,
            self.last_seq,
            extra=fields(MessageId.OUTBOX_RENEWED, channel=f"{self.agent_id}-{self.outbox_id}"),
        )

    @contextlib.contextmanager
    def _rebuilding(self) -> Iterator[None]:
        self.is_rebuilding = True
        try:
            yield
        finally:
            self.is_rebuilding = False

    # --- making room --------------------------------------------------------------------------

    def purge(self, *, kept_since_us: int | None, max_bytes: int) -> int:
        """Free committed rows read before a moment of the trusted clock; returns how many went.

        One bounded step. None for a clock that is not trusted: then nothing is too old. Rows are in
        the order of their reading, so everything before a trusted row that is old enough is old
        enough too. Past `max_bytes` the oldest go whatever their age. Pending rows never go, nor
        those that an operator has to look at or asked to send again.
        """
        return self.surviving(lambda: self._purge(kept_since_us, max_bytes))

    def _purge(self, kept_since_us: int | None, max_bytes: int) -> int:
        with self.file.writing(durable=False) as connection:
            return retention.free(connection, self.state.committed_n, kept_since_us, max_bytes)

    @property
    def is_disk_full(self) -> bool:
        """The disk was full and has had no room for the reserve since: committed rows should go at once."""
        return self._reserve.gave_way

    def refill_reserve(self) -> None:
        """Make the reserve whole again once the disk has room."""
        self._reserve.fill()

    def close(self) -> None:
        """Close the file and let the next agent in."""
        with contextlib.suppress(OutboxError):
            self._write_boots()  # how far this boot was seen, for the boot after it
        self.file.close()
        self._lock.release()

    @property
    def outbox_id(self) -> str:
        """The id of this history; a damaged, restored or copied file gets a new one."""
        return self.state.outbox_id

    @property
    def last_seq(self) -> int:
        """The seq of the newest swipe; 0 before the first."""
        return self.state.last_n - self.state.base

    def seq_of(self, n: int) -> int | None:
        """The seq of a row; None for one of an id that the outbox had before."""
        return n - self.state.base if n > self.state.base else None

    @property
    def committed_seq(self) -> int:
        """Every seq up to here is in Snowflake, or set aside."""
        return self.state.committed_n - self.state.base

    @property
    def pending(self) -> int:
        """Swipes not yet known committed, without those set aside."""
        me = self.state
        return me.last_n - me.committed_n - sum(1 for n in self.set_aside_numbers if n > me.committed_n)
