"""Replays as a row source: stored rows sent again through a separate channel, each replay exactly once."""

from __future__ import annotations

import re
import sqlite3

from agent import rows
from agent.errors import OutboxCorruptError
from agent.outbox import channel_use, holds
from agent.outbox.row_source import Batch, ErrorCount, Position, Rejected
from agent.outbox.state import OutboxState
from agent.outbox.store import Outbox
from agent.outbox.timing.timestamps import STORED, StoredRow, is_intact

_TOKEN = re.compile(r"([1-9][0-9]{0,17})\.([1-9][0-9]{0,17})-([0-9a-f]{16}(?:[0-9a-f]{16})?)")

# The rows of one replay after a number. A row set aside is sent only if the replay is for its hold: a row
# refused once more gets a new hold, and so drops out. One lower bound and not two: SQLite seeks to the
# first bound only, and would scan from there to the other.
_SENDABLE = """
  n BETWEEN max(replays.first_n, {after} + 1) AND replays.last_n
  AND NOT EXISTS (SELECT 1 FROM held WHERE kind = 'set_aside' AND released = 0
                  AND held.first_n = n AND held.id IS NOT replays.held_id)
"""
_NOT_SUSPECT = (
    " AND NOT EXISTS (SELECT 1 FROM state WHERE suspect_replay_id = replays.id AND suspect_replay_n = n)"
)
_MOST_FINISHED = 256  # more than are requested in the minutes in which an error may be counted late


class ReplayRows:
    """The queue of replays, oldest first. An offset token is `<replay id>.<n>-<chain>`."""

    where_kept = "they are kept: badge-agent outbox list"

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._known: tuple[str, tuple[int, int, str]] | None = None
        # First and last row of the replays that are done: errors among them may be counted late.
        self._finished: dict[int, tuple[int, int]] = {}

    @property
    def channel(self) -> str:
        """`<agent id>-<outbox id>-replay`; while a switch is due, the channel used before."""
        return self._outbox.state.record.replay_channel if self.is_switch_due() else self._next_channel

    @property
    def _next_channel(self) -> str:
        return f"{channel_use.name_of(self._outbox.agent_id, self._outbox.outbox_id)}-replay"

    @property
    def pipe(self) -> str:
        """The key of the pipe that the channel is in."""
        known = self._outbox.state.record.replay_pipe if self.is_switch_due() else ""
        return known or self._outbox.pipe

    def is_switch_due(self) -> bool:
        """True if the agent id, the pipe or the outbox id is another one than that of the last replay."""
        used = self._outbox.state.record.replay_channel
        return bool(used) and (used != self._next_channel or self.is_other_pipe())

    def is_other_pipe(self) -> bool:
        """True if a switch to another pipe is due."""
        return channel_use.is_other_pipe(self._outbox.state.record.replay_pipe, self._outbox.pipe)

    def recent_switches(self) -> tuple[int, int]:
        """None: the name follows that of the live channel, whose changes are limited."""
        return 0, 0

    def switch(self, now_us: int) -> None:
        """Go to the next channel."""
        del now_us
        self._outbox.record_replay_channel(self._next_channel)

    def record_channel(self, now_us: int) -> None:
        """On disk before the first row is sent to the channel."""
        self.switch(now_us)

    @property
    def committed(self) -> Position:
        """The replay and the row of the last commit."""
        return self._last_commit()[:2]

    def _last_commit(self) -> tuple[int, int, str]:
        """Replay, row and chain of the last commit, read once per outbox id."""
        outbox_id = self._outbox.outbox_id
        if self._known is None or self._known[0] != outbox_id:
            with self._outbox.reading() as connection:
                at = connection.execute("SELECT replay_id, n, chain FROM replayed").fetchone()
                if at is None or not holds.is_replayed(at):
                    raise OutboxCorruptError("its replays are damaged")
            self._known = (outbox_id, at)
        return self._known[1]

    def needs_channel(self) -> bool:
        """True while a replay waits; a replay with nothing left to send is removed from the queue here.

        False while the live channel is to change, as the name of this one follows it, and while the rows of a
        damaged file are moved: rows of the replay may be missing.
        """
        if self._outbox.is_switch_due or self._outbox.state.recoveries:
            return False
        with self._outbox.reading() as connection:
            waiting = connection.execute("SELECT 1 FROM replays LIMIT 1").fetchone() is not None
        if not waiting:
            return False
        committed = self.committed
        with self._outbox.writing() as connection:
            self._finish(connection, committed)
            return connection.execute("SELECT 1 FROM replays LIMIT 1").fetchone() is not None

    def seq(self, position: Position) -> int | None:
        """The seq in the row as sent; None for a row of an outbox id that is forgotten."""
        found = self._outbox.state.position_of(position[1])
        return found.seq if found is not None else None

    def has_after(self, position: Position) -> bool:
        """True when rows follow a position."""
        return self.after(position, 1, max_bytes=0) is not None

    @property
    def max_wait_s(self) -> float | None:
        """Always None: rows that were sent keep the times they were sent with."""
        return None

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The next rows of the replay at `position`, or else of a later one."""
        replay_id, n = position
        with self._outbox.reading() as connection:
            waiting = connection.execute(
                "SELECT id FROM replays WHERE id >= ? ORDER BY id", (replay_id,)
            ).fetchall()
            for (waiting_id,) in waiting:
                found = _fetch(connection, waiting_id, n if waiting_id == replay_id else 0, limit, max_bytes)
                if found:
                    break
            else:
                return None
        state = self._outbox.state
        damaged = [stored.n for stored in found if not is_intact(stored, state.record.legacy_n)]
        if not damaged:
            return _batch(waiting_id, found, state)
        self._outbox.hold_damaged(damaged)
        return self.after(position, limit, max_bytes=max_bytes)

    def committed_token(self) -> str | None:
        """The token of the last commit; None before the first."""
        replay_id, n, chain = self._last_commit()
        return _token(replay_id, n, chain) if replay_id else None

    def position_of(self, offset_token: str) -> Position | None:
        """A token is valid if its replay was requested and its row has its chain, or if it is stored."""
        parts = _TOKEN.fullmatch(offset_token)
        if parts is None:
            return None
        position = (int(parts[1]), int(parts[2]))
        if offset_token == self.committed_token():
            return position
        with self._outbox.reading() as connection:
            newest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'replays'").fetchone()
            row = connection.execute("SELECT chain FROM swipes WHERE n = ?", position[1:]).fetchone()
        is_known = newest is not None and position[0] <= newest[0] and row == (parts[3],)
        return position if is_known else None

    def error_count(self) -> ErrorCount | None:
        """The server's error count as last stored."""
        with self._outbox.reading() as connection:
            return holds.error_count(connection, self.channel)

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> list[Position]:
        """Remove the replays that are done, and release the holds they were for."""
        outbox_id, channel, suspect = self._outbox.outbox_id, self.channel, self.suspect
        aside: list[Position] = []
        if suspect is not None and position > suspect:
            aside = self._passed_over(suspect, position)
            self._outbox.set_aside_replay_rows([n for _, n in aside])
        position, committed, chain = max(position, self.committed), self.committed, self._last_commit()[2]
        for attempt in self._outbox.writing_with_reserve():
            with attempt as connection:
                if position > committed:
                    (chain,) = connection.execute(
                        "SELECT chain FROM swipes WHERE n = ?", position[1:]
                    ).fetchone()
                    connection.execute(
                        "UPDATE replayed SET replay_id = ?, n = ?, chain = ?", (*position, chain)
                    )
                holds.note_errors(connection, channel, errors)
                if rejected is not None:
                    self._reject(connection, rejected)
                self._finish(connection, position)
        self._known = (outbox_id, (*position, chain))
        return aside

    def _passed_over(self, suspect: Position, accepted: Position) -> list[Position]:
        """The rows from the suspect to the last one before the first row accepted."""
        sendable = _SENDABLE.format(after="iif(replays.id = ?1, ?2 - 1, 0)")
        with self._outbox.reading() as connection:
            return connection.execute(
                f"""SELECT id, n FROM replays, swipes
                    WHERE id >= ?1 AND (id, n) < (?3, ?4) AND {sendable} ORDER BY id, n""",
                (*suspect, *accepted),
            ).fetchall()

    def _finish(self, connection: sqlite3.Connection, done: Position) -> None:
        """Remove the replays with nothing left to send after `done`, and release the holds they were for."""
        left = _SENDABLE.format(after="iif(replays.id = ?1, ?2, 0)")
        over = connection.execute(
            f"""SELECT id, first_n, last_n, held_id FROM replays
                WHERE id < ?1 OR NOT EXISTS (SELECT 1 FROM swipes WHERE {left})""",
            done,
        ).fetchall()
        for replay_id, first_n, last_n, held_id in over:
            connection.execute("DELETE FROM replays WHERE id = ?", (replay_id,))
            connection.execute("UPDATE held SET released = 1 WHERE id = ?", (held_id,))
            self._finished[replay_id] = first_n, last_n
        while len(self._finished) > _MOST_FINISHED:
            del self._finished[min(self._finished)]

    def _reject(self, connection: sqlite3.Connection, rejected: Rejected) -> None:
        """Hold a rejected range; where it spans several replays, one hold for each of them."""
        waiting = connection.execute("SELECT id, first_n, last_n FROM replays").fetchall()
        ranges = self._finished | {replay_id: (first_n, last_n) for replay_id, first_n, last_n in waiting}
        (first_id, after_n), (last_id, end_n) = rejected.after, rejected.last
        for replay_id in sorted(replay_id for replay_id in ranges if first_id <= replay_id <= last_id):
            first_n, last_n = ranges[replay_id]
            first_n = max(first_n, after_n + 1) if replay_id == first_id else first_n
            last_n = min(last_n, end_n) if replay_id == last_id else last_n
            first_n, last_n = connection.execute(
                "SELECT min(n), max(n) FROM swipes WHERE n BETWEEN ? AND ?", (first_n, last_n)
            ).fetchone()
            if first_n is not None:
                holds.reject(connection, first_n, last_n, rejected.reason)

    @property
    def suspect(self) -> Position | None:
        """The row that is passed over; part of the state record."""
        record = self._outbox.state.record
        return (record.suspect_replay_id, record.suspect_replay_n) if record.suspect_replay_id else None

    def mark_suspect(self, position: Position) -> None:
        """On disk before any later row is sent: the token will pass over this one."""
        self._outbox.mark_replay_suspect(position)

    def withdraw_suspect(self) -> None:
        """This row is sent again."""
        self._outbox.mark_replay_suspect((0, 0))

    def went_back(self, position: Position) -> None:
        """Replays that are done are not stored, so an operator has to request them again."""
        channel_use.log_went_back(
            self.channel,
            f"replays after row {position[1]} of replay {position[0]} may be lost: request them again",
        )

    def request_generation(self, why: str) -> None:
        """A new outbox id for the live rows as well: both share one history."""
        self._outbox.request_generation(why)


def _fetch(
    connection: sqlite3.Connection, replay_id: int, after: int, limit: int, max_bytes: int
) -> list[StoredRow]:
    taken: list[StoredRow] = []
    size = 0
    cursor = connection.execute(
        f"""SELECT {STORED} FROM swipes, replays
            WHERE replays.id = ?1 AND {_SENDABLE.format(after="?2")} {_NOT_SUSPECT} ORDER BY n LIMIT ?3""",
        (replay_id, after, limit),
    )
    for found in map(StoredRow._make, cursor):
        taken.append(found)
        size += len(found.row)
        if size >= max_bytes:
            break
    cursor.close()
    return taken


def _batch(replay_id: int, taken: list[StoredRow], state: OutboxState) -> Batch:
    first, last = taken[0], taken[-1]
    return Batch(
        rows=[rows.as_replay(state.as_sent(stored)) for stored in taken],
        last=(replay_id, last.n),
        first_token=_token(replay_id, first.n, first.chain),
        last_token=_token(replay_id, last.n, last.chain),
    )


def _token(replay_id: int, n: int, chain: str) -> str:
    return f"{replay_id}.{n}-{chain}"
