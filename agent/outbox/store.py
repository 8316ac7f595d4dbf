"""Keep a swipe on disk before anything else happens; give rows out in order until they are committed."""

from __future__ import annotations

import re
import sqlite3
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent import rows
from agent.errors import OutboxError
from agent.outbox import schema
from agent.outbox.lock import StateLock
from agent.swipe import Swipe

_TOKEN = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{16})")
# One purge step frees at most so many rows, so that a swipe never waits long for the file.
_PURGE_ROWS = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows as they go to the pipe, one JSON object each, with the seq of both ends."""

    rows: list[bytes] = field(repr=False)
    first_seq: int
    last_seq: int
    first_token: str
    last_token: str


@dataclass(frozen=True, slots=True)
class OutboxCounts:
    """What `status` shows of the file."""

    outbox_id: str
    last_seq: int
    committed_seq: int
    kept: int  # committed and still stored
    oldest_pending_row: bytes | None = field(repr=False)
    bytes: int

    @property
    def pending(self) -> int:
        """Swipes not yet known committed."""
        return self.last_seq - self.committed_seq


@dataclass(slots=True)
class _Ticket:
    """Swipes waiting for the commit that will carry them."""

    swipes: Sequence[Swipe]
    done: bool = False
    error: BaseException | None = None


class Outbox:
    """The agent's outbox file; one instance at a time per state directory.

    Safe to use from several threads. Every method raises OutboxError when the file fails.
    """

    def __init__(self, state_dir: Path, *, agent_id: str) -> None:
        """Open or create. Raises OutboxInUseError, OutboxVersionError, OutboxError, NotPermittedError."""
        self._path = state_dir / schema.OUTBOX_FILE
        self._agent_id = agent_id
        self._lock = StateLock(state_dir)
        try:
            self._writer = schema.open_for_writing(state_dir)
            try:
                self._reader = schema.open_for_reading(state_dir)
                with schema.translated(self._path):
                    self._read_state()
            except BaseException:
                self._writer.close()
                raise
        except BaseException:
            self._lock.release()
            raise
        self._writing = threading.Lock()  # one writer at a time, so that SQLite never has to say "busy"
        self._reading = threading.Lock()
        self._queueing = threading.Lock()
        self._waiting: list[_Ticket] = []

    def _read_state(self) -> None:
        self.outbox_id: str
        self.last_seq: int
        self.committed_seq: int
        self._last_chain: str
        self.outbox_id, self.committed_seq, self._committed_chain = self._writer.execute(
            "SELECT outbox_id, committed_seq, committed_chain FROM state"
        ).fetchone()
        newest = self._writer.execute("SELECT seq, chain FROM swipes ORDER BY seq DESC LIMIT 1").fetchone()
        # Without a row every one was committed and purged; the high-water mark remembers the last.
        self.last_seq, self._last_chain = newest or (
            self.committed_seq,
            self._committed_chain or rows.first_link(self.outbox_id),
        )

    # --- taking swipes ------------------------------------------------------------------------

    def keep(self, *swipes: Swipe) -> None:
        """Store swipes in order; they are on disk when this returns. Raises OutboxError, then none is.

        Calls that arrive while another one is being written share the next commit: whoever gets
        the writer first carries everybody who waits.
        """
        ticket = _Ticket(swipes)
        with self._queueing:
            self._waiting.append(ticket)
        with self._writing:
            if not ticket.done:
                with self._queueing:
                    tickets, self._waiting = self._waiting, []
                self._commit(tickets)
        if ticket.error is not None:
            raise ticket.error

    def _commit(self, tickets: list[_Ticket]) -> None:
        try:
            with schema.translated(self._path):
                self._insert([swipe for ticket in tickets for swipe in ticket.swipes])
        except BaseException as error:  # noqa: BLE001 - it belongs to every waiting caller, who raise it
            for ticket in tickets:
                ticket.error = error
        for ticket in tickets:
            ticket.done = True

    def _insert(self, swipes: list[Swipe]) -> None:
        seq, chain = self.last_seq, self._last_chain
        stored: list[tuple[int, str, int | None, bytes]] = []
        for swipe in swipes:
            seq += 1
            place = rows.Place(self.outbox_id, seq, str(uuid.uuid4()), chain)
            chain, row = rows.render(swipe, place, agent_id=self._agent_id)
            stored.append((seq, chain, swipe.read_at.wall_us if swipe.read_at.trusted else None, row))
        self._transaction("INSERT INTO swipes VALUES (?, ?, ?, ?)", stored)
        self.last_seq, self._last_chain = seq, chain

    def _transaction(self, statement: str, parameters: Sequence[Sequence[object]]) -> None:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            self._writer.executemany(statement, parameters)
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    # --- giving rows out ----------------------------------------------------------------------

    def after(self, seq: int, limit: int, *, max_bytes: int) -> Batch | None:
        """The rows that follow `seq`: at most `limit` of them, none begun past `max_bytes`; None for none.

        At least one row is given, however large it is.
        """
        taken: list[tuple[int, str, bytes]] = []
        size = 0
        with self._reading, schema.translated(self._path):
            cursor = self._reader.execute(
                "SELECT seq, chain, row FROM swipes WHERE seq > ? ORDER BY seq LIMIT ?", (seq, limit)
            )
            for seq_chain_row in cursor:
                taken.append(seq_chain_row)
                size += len(seq_chain_row[2])
                if size >= max_bytes:
                    break
            cursor.close()  # ends the read transaction, so that a checkpoint can pass
        if not taken:
            return None
        return Batch(
            rows=[row for _, _, row in taken],
            first_seq=taken[0][0],
            last_seq=taken[-1][0],
            first_token=token(*taken[0][:2]),
            last_token=token(*taken[-1][:2]),
        )

    def committed_token(self) -> str | None:
        """The offset token of the last row we know to be committed; None before the first."""
        return token(self.committed_seq, self._committed_chain) if self.committed_seq else None

    def explain(self, offset_token: str) -> int | None:
        """The seq that an offset token names, or None if this outbox has no such row in its history."""
        ours = _TOKEN.fullmatch(offset_token)
        if ours is None:
            return None
        seq, chain = int(ours[1]), ours[2]
        if seq == self.committed_seq and chain == self._committed_chain:
            return seq
        with self._reading, schema.translated(self._path):
            found = self._reader.execute("SELECT chain FROM swipes WHERE seq = ?", (seq,)).fetchone()
        return seq if found is not None and found[0] == chain else None

    def mark_committed(self, seq: int) -> None:
        """Everything up to `seq` is in Snowflake. Going backwards is ignored.

        Not flushed: if the power fails, the remote token tells it again.
        """
        with self._writing, schema.translated(self._path):
            if seq <= self.committed_seq:
                return
            found = self._writer.execute("SELECT chain FROM swipes WHERE seq = ?", (seq,)).fetchone()
            if found is None:
                raise OutboxError(f"{self._path} has no swipe {seq} to mark as committed")
            self._writer.execute("PRAGMA synchronous=NORMAL")
            try:
                self._transaction("UPDATE state SET committed_seq = ?, committed_chain = ?", [(seq, *found)])
            finally:
                self._writer.execute("PRAGMA synchronous=FULL")
            self.committed_seq, self._committed_chain = seq, found[0]

    def purge(self, *, kept_since_us: int) -> int:
        """Free committed rows read before a moment of the trusted clock; returns how many went.

        One bounded step. Rows are in the order of their reading, so everything before a trusted
        row that is old enough is old enough too, also what was read under an untrusted clock.
        """
        with self._reading, schema.translated(self._path):
            oldest_trusted = self._reader.execute(
                "SELECT trusted_us FROM swipes WHERE trusted_us IS NOT NULL AND seq <= ? ORDER BY seq"
                " LIMIT 1",
                (self.committed_seq,),
            ).fetchone()
        if oldest_trusted is None or oldest_trusted[0] >= kept_since_us:
            return 0
        with self._writing, schema.translated(self._path):
            candidates = self._writer.execute(
                "SELECT seq, trusted_us FROM swipes WHERE seq <= ? ORDER BY seq LIMIT ?",
                (self.committed_seq, _PURGE_ROWS),
            ).fetchall()
            # Where the step ends before the first trusted row, that old row stands behind all of them.
            old = candidates[-1][0] if all(us is None for _, us in candidates) else 0
            for seq, trusted_us in candidates:
                if trusted_us is not None and trusted_us >= kept_since_us:
                    break
                if trusted_us is not None:
                    old = seq
            self._transaction("DELETE FROM swipes WHERE seq <= ?", [(old,)])
        return sum(1 for seq, _ in candidates if seq <= old)

    def counts(self) -> OutboxCounts:
        """What `status` shows."""
        with self._reading, schema.translated(self._path):
            return _counts(self._reader, self._path)

    def close(self) -> None:
        """Close the file and let the next agent in."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()
            self._lock.release()


def read_counts(state_dir: Path) -> OutboxCounts:
    """What `status` shows, read beside a running agent. Raises OutboxError if there is no outbox."""
    path = state_dir / schema.OUTBOX_FILE
    with schema.translated(path):
        connection = schema.open_for_reading(state_dir)
        try:
            return _counts(connection, path)
        finally:
            connection.close()


def token(seq: int, chain: str) -> str:
    """The offset token of a row: it names how far, and in which history."""
    return f"{seq}-{chain}"


def _counts(connection: sqlite3.Connection, path: Path) -> OutboxCounts:
    outbox_id, committed_seq = connection.execute("SELECT outbox_id, committed_seq FROM state").fetchone()
    first, last = connection.execute("SELECT min(seq), max(seq) FROM swipes").fetchone()
    oldest = connection.execute(
        "SELECT row FROM swipes WHERE seq > ? ORDER BY seq LIMIT 1", (committed_seq,)
    ).fetchone()
    return OutboxCounts(
        outbox_id=outbox_id,
        last_seq=last if last is not None else committed_seq,
        committed_seq=committed_seq,
        kept=committed_seq - first + 1 if first is not None and first <= committed_seq else 0,
        oldest_pending_row=oldest[0] if oldest else None,
        bytes=path.stat().st_size,
    )
