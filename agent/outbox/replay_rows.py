"""Rows to send again, as a source of rows: through a channel of their own, each replay exactly once."""

from __future__ import annotations

import re
import sqlite3

from agent import rows
from agent.outbox import holds
from agent.outbox.row_source import Batch, ErrorCount, Position, Rejected
from agent.outbox.store import Outbox
from agent.outbox.timing.timestamps import STORED, AppliedCurves, StoredRow

_TOKEN = re.compile(r"([1-9][0-9]{0,17})\.([1-9][0-9]{0,17})-([0-9a-f]{16})")

# The rows of one replay behind a number. One that is set aside goes only if the replay is for that
# very hold: a row refused once more is held anew, and so drops out. One lower bound and not two:
# SQLite seeks to the first it finds, and would walk from there to the other.
_SENDABLE = """
  n BETWEEN max(replays.first_n, {after} + 1) AND replays.last_n
  AND NOT EXISTS (SELECT 1 FROM held WHERE kind = 'set_aside' AND released = 0
                  AND held.first_n = n AND held.id IS NOT replays.held_id)
"""


class ReplayRows:
    """The queue of replays. An offset token is `<replay id>.<n>-<chain>`."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._known: tuple[str, tuple[int, int, str]] | None = None

    @property
    def channel(self) -> str:
        """`<agent id>-<outbox id>-replay`."""
        return f"{self._outbox.agent_id}-{self._outbox.state.outbox_id}-replay"

    @property
    def committed(self) -> Position:
        """How far the queue is done."""
        return self._at()[:2]

    def _at(self) -> tuple[int, int, str]:
        """Replay, row and chain of the last commit, read once for every identity the outbox has had."""
        outbox_id = self._outbox.outbox_id
        if self._known is None or self._known[0] != outbox_id:
            self._known = (outbox_id, self._outbox.surviving(self._read))
        return self._known[1]

    def _read(self) -> tuple[int, int, str]:
        with self._outbox.file.reading() as connection:
            at: tuple[int, int, str] = connection.execute(
                "SELECT replay_id, n, chain FROM replayed"
            ).fetchone()
        return at

    def needs_channel(self) -> bool:
        """True while a replay waits; one with nothing left to send leaves the queue here."""
        return self._outbox.surviving(self._tidy)

    def _tidy(self) -> bool:
        with self._outbox.file.reading() as connection:
            waiting = connection.execute("SELECT 1 FROM replays LIMIT 1").fetchone() is not None
        if not waiting:
            return False
        with self._outbox.file.writing() as connection:
            _finish(connection, self.committed)
            return connection.execute("SELECT 1 FROM replays LIMIT 1").fetchone() is not None

    def seq(self, position: Position) -> int | None:
        """As the row has it."""
        return self._outbox.seq_of(position[1])

    def has_after(self, position: Position) -> bool:
        """True when rows follow a position."""
        return self.after(position, 1, max_bytes=0) is not None

    @property
    def max_wait_s(self) -> float | None:
        """Never: rows that went have the times with which they went."""
        return None

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The next rows of the replay at `position`, or else of one behind it."""
        return self._outbox.surviving(lambda: self._after(position, limit, max_bytes))

    def _after(self, position: Position, limit: int, max_bytes: int) -> Batch | None:
        replay_id, n = position
        with self._outbox.file.reading() as connection:
            waiting = connection.execute(
                "SELECT id FROM replays WHERE id >= ? ORDER BY id", (replay_id,)
            ).fetchall()
            for (waiting_id,) in waiting:
                found = _fetch(connection, waiting_id, n if waiting_id == replay_id else 0, limit, max_bytes)
                if found:
                    return _batch(waiting_id, found, self._outbox.used_timings)
        return None

    def committed_token(self) -> str | None:
        """The token of how far the queue is done."""
        replay_id, n, chain = self._at()
        return _token(replay_id, n, chain) if replay_id else None

    def position_of(self, offset_token: str) -> Position | None:
        """A token is ours if its row has that chain, or if it is the one written down."""
        ours = _TOKEN.fullmatch(offset_token)
        if ours is None:
            return None
        position = (int(ours[1]), int(ours[2]))
        if offset_token == self.committed_token():
            return position
        return position if self._outbox.surviving(lambda: self._has(position, ours[3])) else None

    def _has(self, position: Position, chain: str) -> bool:
        """True if that replay was ever asked for and that row has that chain."""
        with self._outbox.file.reading() as connection:
            newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'replays'").fetchone()
            row = connection.execute("SELECT chain FROM swipes WHERE n = ?", position[1:]).fetchone()
        return newest is not None and position[0] <= newest[0] and row == (chain,)

    def error_count(self) -> ErrorCount | None:
        """As last written down."""
        return self._outbox.surviving(lambda: holds.error_count(self._outbox.file, self.channel))

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> None:
        """Replays that are done leave the queue, and what they were for is dealt with."""
        self._outbox.settle(lambda: self._commit(position, errors, rejected))

    def _commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> None:
        position, outbox_id = max(position, self.committed), self._outbox.outbox_id
        chain = self._at()[2]
        with self._outbox.file.writing() as connection:
            if position > self.committed:
                (chain,) = connection.execute("SELECT chain FROM swipes WHERE n = ?", position[1:]).fetchone()
                connection.execute("UPDATE replayed SET replay_id = ?, n = ?, chain = ?", (*position, chain))
            holds.note_errors(connection, self.channel, errors)
            if rejected is not None:
                _reject(connection, rejected)
            _finish(connection, position)
        self._known = (outbox_id, (*position, chain))

    def set_aside(self, position: Position, reason: str) -> None:
        """Refused again, or for the first time: it stays, or becomes, a row for an operator."""

        def mark() -> None:
            with self._outbox.file.writing() as connection:
                holds.set_aside(connection, position[1], reason)

        self._outbox.surviving(mark)
        self._outbox.set_aside_numbers = self._outbox.set_aside_numbers | {position[1]}

    def restore(self, positions: list[Position]) -> None:
        """They are in their replay again. What was set aside before its replay stays so."""
        numbered = [(n, replay_id) for replay_id, n in positions]

        def unmark() -> set[int]:
            with self._outbox.file.writing() as connection:
                return {n for n, replay_id in numbered if _take_back(connection, n, replay_id)}

        self._outbox.set_aside_numbers = self._outbox.set_aside_numbers - self._outbox.surviving(unmark)

    def start_generation(self, why: str) -> None:
        """The same history as the live rows': one name for both."""
        self._outbox.surviving(lambda: self._outbox.start_generation(why))


def _fetch(
    connection: sqlite3.Connection, replay_id: int, after: int, limit: int, max_bytes: int
) -> list[StoredRow]:
    taken: list[StoredRow] = []
    size = 0
    cursor = connection.execute(
        f"""SELECT {STORED} FROM swipes, replays
            WHERE replays.id = ?1 AND {_SENDABLE.format(after="?2")} ORDER BY n LIMIT ?3""",
        (replay_id, after, limit),
    )
    for found in map(StoredRow._make, cursor):
        taken.append(found)
        size += len(found.row)
        if size >= max_bytes:
            break
    cursor.close()
    return taken


def _batch(replay_id: int, taken: list[StoredRow], timings: AppliedCurves) -> Batch:
    first, last = taken[0], taken[-1]
    return Batch(
        rows=[rows.as_replay(timings.as_sent(stored)) for stored in taken],
        last=(replay_id, last.n),
        first_token=_token(replay_id, first.n, first.chain),
        last_token=_token(replay_id, last.n, last.chain),
    )


def _take_back(connection: sqlite3.Connection, n: int, replay_id: int) -> bool:
    """False for a row whose replay was for the very hold that its refusal renewed."""
    undone = connection.execute(
        """DELETE FROM held WHERE kind = 'set_aside' AND first_n = ? AND EXISTS (
             SELECT 1 FROM replays WHERE replays.id = ?
             AND (held_id IS NULL OR held_id IN (SELECT id FROM held WHERE kind = 'rejected')))""",
        (n, replay_id),
    )
    return undone.rowcount > 0


def _token(replay_id: int, n: int, chain: str) -> str:
    return f"{replay_id}.{n}-{chain}"


def _finish(connection: sqlite3.Connection, done: Position) -> None:
    """Drop the replays that have nothing left to send behind `done`; what they were for is released."""
    left = _SENDABLE.format(after="iif(replays.id = ?1, ?2, 0)")
    over = connection.execute(
        f"""SELECT id, held_id FROM replays
            WHERE id < ?1 OR NOT EXISTS (SELECT 1 FROM swipes WHERE {left})""",
        done,
    ).fetchall()
    for replay_id, held_id in over:
        connection.execute("DELETE FROM replays WHERE id = ?", (replay_id,))
        connection.execute("UPDATE held SET released = 1 WHERE id = ?", (held_id,))


def _reject(connection: sqlite3.Connection, rejected: Rejected) -> None:
    """The range may span several replays; each part of it becomes a range of its own."""
    parts = connection.execute(
        """SELECT min(n), max(n) FROM replays JOIN swipes ON n BETWEEN first_n AND last_n
           WHERE (id, n) > (?, ?) AND (id, n) <= (?, ?) GROUP BY id""",
        (*rejected.after, *rejected.last),
    ).fetchall()
    for first_n, last_n in parts:
        holds.reject(connection, first_n, last_n, rejected.reason)
