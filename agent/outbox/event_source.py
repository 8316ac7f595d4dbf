"""Door events and heartbeats as a row source: sent once, in order, through a channel of their own.

A position is (n, k): the event n, and k heartbeats that were sent after it and before the next event. The
offset token is `<seq>-<chain>` of an event, and `<seq>.<k>-<chain>` of a heartbeat after it. A heartbeat is
not stored: one that is due is made when it is sent, and again if it was lost on its way. So a commit of
heartbeats alone writes nothing to the disk; after a restart the channel's token gives k again.
"""

from __future__ import annotations

import logging
import re
import sqlite3
from collections.abc import Callable
from typing import Protocol

from agent import event_rows, rows
from agent.errors import OutboxReplacedError
from agent.outbox import channel_use, event_store, holds
from agent.outbox.event_store import EventState, StoredEvent
from agent.outbox.row_source import Batch, ErrorCount, Position, Rejected
from agent.outbox.store import Outbox
from agent.rows import RowPosition

_log = logging.getLogger(__name__)

_TOKEN = re.compile(r"(0|[1-9][0-9]{0,17})(?:\.([1-9][0-9]{0,17}))?-([0-9a-f]{12}|[0-9a-f]{32})")


class Heartbeats(Protocol):
    """When a heartbeat is due, and its row."""

    def due_in_s(self) -> float | None:
        """Seconds until the next one is due, 0.0 if it is; None for never."""

    def make(self) -> bytes | None:
        """The row as sent; None if there is none at present."""

    def sent(self) -> None:
        """The last one made is in Snowflake, or is given up: the next one is due after the interval."""


class NoHeartbeats:
    """For an outbox that is only drained, and for `heartbeat_minutes = 0`."""

    def due_in_s(self) -> None:
        """Never."""

    def make(self) -> None:
        """None."""

    def sent(self) -> None:
        """Nothing."""


class EventRows:
    """Pending door events, and heartbeats when they are due.

    `pipe`: the key of the pipe for them. `may_wait_s` as for LiveRows: events whose time is not known wait.
    """

    where_kept = "they are door events, which `replay` does not send again"

    def __init__(
        self,
        outbox: Outbox,
        pipe: str,
        heartbeats: Heartbeats,
        may_wait_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._outbox = outbox
        self._pipe = pipe
        self._heartbeats = heartbeats
        self._may_wait_s = may_wait_s
        self._waits = False
        self._known: tuple[str, EventState] | None = None
        self._committed_beats = 0  # heartbeats committed after the event committed_n
        self._made: Position | None = None  # of the heartbeat that is on its way

    # --- the channel ------------------------------------------------------------------------------

    @property
    def channel(self) -> str:
        """`<agent id>-<outbox id>-events`; while a switch is due, the channel used before."""
        return self._state.channel if self.is_switch_due() else self._next_channel

    @property
    def _next_channel(self) -> str:
        return f"{channel_use.name_of(self._outbox.agent_id, self._outbox.outbox_id)}-events"

    @property
    def pipe(self) -> str:
        """The key of the pipe that the channel is in."""
        return (self._state.pipe if self.is_switch_due() else "") or self._pipe

    def is_switch_due(self) -> bool:
        """True if the agent id, the pipe or the outbox id is another one than that of the last events."""
        used = self._state.channel
        return bool(used) and (used != self._next_channel or self.is_other_pipe())

    def is_other_pipe(self) -> bool:
        """True if a switch to another pipe is due."""
        return channel_use.is_other_pipe(self._state.pipe, self._pipe)

    def recent_switches(self) -> tuple[int, int]:
        """None: the name follows that of the live channel, whose changes are limited."""
        return 0, 0

    def switch(self, now_us: int) -> None:
        """Go to the next channel. Under another outbox id the next event is the first one."""
        del now_us
        outbox_id, channel = self._outbox.outbox_id, self._next_channel
        with self._outbox.writing() as connection:
            state = event_store.read_state(connection)
            if state.outbox_id != outbox_id:
                before = state.committed_chain or state.chain_before
                state = state._replace(
                    outbox_id=outbox_id, first_n=state.committed_n + 1, chain_before=before or outbox_id
                )
                self._committed_beats, self._made = 0, None
            state = state._replace(channel=channel, pipe=self._pipe)
            event_store.write_state(connection, state)
        self._known = (outbox_id, state)

    def record_channel(self, now_us: int) -> None:
        """On disk before the first row is sent to the channel."""
        if (self._state.channel, self._state.pipe) != (self._next_channel, self._pipe):
            self.switch(now_us)

    def needs_channel(self) -> bool:
        """True while an event or a heartbeat waits.

        False while the live channel is to change, as the name of this one follows it, and while the rows of a
        damaged file are moved.
        """
        if self._outbox.is_switch_due or self._outbox.state.recoveries:
            return False
        return self.has_after(self.committed)

    # --- rows -------------------------------------------------------------------------------------

    @property
    def _state(self) -> EventState:
        """As stored; read once per outbox id, and kept up to date here."""
        outbox_id = self._outbox.outbox_id
        if self._known is None or self._known[0] != outbox_id:
            with self._outbox.reading() as connection:
                self._known = (outbox_id, event_store.read_state(connection))
            self._committed_beats, self._made = 0, None
        return self._known[1]

    @property
    def committed(self) -> Position:
        """The event of the last commit, and how many heartbeats after it are committed."""
        return self._state.committed_n, self._committed_beats

    def seq(self, position: Position) -> int | None:
        """The seq in the row as sent; None for an event of an earlier outbox id."""
        seq = position[0] - self._state.first_n + 1
        return seq if seq > 0 else None

    def has_after(self, position: Position) -> bool:
        """True if an event follows, or if a heartbeat is due that is not on its way before this position."""
        with self._outbox.reading() as connection:
            n, _ = event_store.newest(connection, self._state)
        return n > max(position[0], self._state.suspect_n) or self._is_heartbeat_due(position)

    def _is_heartbeat_due(self, position: Position) -> bool:
        if self._made is not None:
            return position < self._made
        return self._heartbeats.due_in_s() == 0.0

    @property
    def max_wait_s(self) -> float | None:
        """How long the next event waits for the clock at most; None if it does not."""
        return self._may_wait_s() if self._waits else None

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The events that follow, and then a heartbeat if one is due."""
        if self._made is not None and position < self._made:
            self._made = None  # it did not arrive, or other rows come before it now
        n, beats = position
        stored, is_last = self._intact_after(n, limit, max_bytes)
        ready: list[bytes] = []
        for event in stored:
            row = self._as_sent(event)
            if row is None:
                break
            ready.append(row)
        self._waits = len(ready) < len(stored)
        stored = stored[: len(ready)]
        if stored:
            n, beats = stored[-1].n, 0
        last = (n, beats)
        has_room = is_last and not self._waits and len(ready) < limit
        if has_room and self._is_heartbeat_due(last) and (heartbeat := self._heartbeats.make()) is not None:
            ready.append(heartbeat)
            last = self._made = (n, beats + 1)
        if not ready:
            return None
        chains = {event.n: event.chain for event in stored}
        first = (stored[0].n, 0) if stored else last
        tokens = self._token(first, chains), self._token(last, chains)
        return Batch(ready, last, *tokens, is_stored=bool(stored))

    def _intact_after(self, n: int, limit: int, max_bytes: int) -> tuple[list[StoredEvent], bool]:
        """The next events, and whether no other follows. Damaged ones are deleted, and reported."""
        taken: list[StoredEvent] = []
        damaged: list[int] = []
        size, suspect_n = 0, self._state.suspect_n
        with self._outbox.reading() as connection:
            cursor = connection.execute(
                f"SELECT {event_store.STORED} FROM door_events WHERE n > ? AND n IS NOT ? ORDER BY n LIMIT ?",
                (n, suspect_n, limit + 1),
            )
            found = [StoredEvent._make(columns) for columns in cursor.fetchall()]
        for event in found[:limit]:
            if not event.is_intact:
                damaged.append(event.n)
                continue
            if taken and size >= max_bytes:
                break
            taken.append(event)
            size += len(event.row)
        if damaged:
            self._delete(damaged)
        return taken, len(found) <= limit and len(taken) + len(damaged) == len(found)

    def _delete(self, damaged: list[int]) -> None:
        with self._outbox.writing() as connection:
            connection.executemany("DELETE FROM door_events WHERE n = ?", [(n,) for n in damaged])
        _log.error("outbox: %d door events are damaged on the disk and are not sent", len(damaged))
        self._outbox.check_again()

    def _as_sent(self, event: StoredEvent) -> bytes | None:
        """The row with its position and its time as known now; None if it waits for the clock."""
        row, boots = event.row, self._outbox.boots
        if event.boot is not None and event_rows.needs_time(row):
            if event.boot > boots.settled and self._may_wait_s() > 0:
                return None
            curve = boots.timings().get(event.boot)
            if curve is not None:
                estimate = curve.at(event.boot_us)
                row = event_rows.with_time(row, event.boot_us + estimate.offset_us, sure=estimate.sure)
        first_n, before = self._state.first_n, self._state.chain_before
        position = RowPosition(
            self._outbox.outbox_id, event.n - first_n + 1, before if event.n == first_n and before else None
        )
        return event_rows.as_sent(row, position)

    # --- tokens -----------------------------------------------------------------------------------

    def _token(self, position: Position, chains: dict[int, str]) -> str:
        n, beats = position
        chain = chains.get(n) or self._chain_of(n)
        return f"{n - self._state.first_n + 1}{f'.{beats}' if beats else ''}-{chain}"

    def _chain_of(self, n: int) -> str | None:
        """The chain of an event; None if it is not known."""
        state = self._state
        if n == state.first_n - 1:
            is_known = state.chain_before not in {"", rows.UNKNOWN_LINK}
            return state.chain_before if is_known else self._outbox.outbox_id
        if n == state.committed_n:
            return state.committed_chain
        with self._outbox.reading() as connection:
            found = connection.execute("SELECT chain FROM door_events WHERE n = ?", (n,)).fetchone()
        return str(found[0]) if found is not None else None

    def committed_token(self) -> str | None:
        """The token of the last commit under this outbox id; None before the first."""
        state = self._state
        if state.committed_n < state.first_n and not self._committed_beats:
            return None
        return self._token(self.committed, {})

    def position_of(self, offset_token: str) -> Position | None:
        """A token is valid if the event with its seq has its chain, or was purged after it was committed."""
        parts = _TOKEN.fullmatch(offset_token)
        if parts is None:
            return None
        state, n = self._state, self._state.first_n - 1 + int(parts[1])
        chain = self._chain_of(n)
        is_ours = chain == parts[3] if chain is not None else n < state.committed_n
        return (n, int(parts[2] or 0)) if is_ours else None

    # --- commits ----------------------------------------------------------------------------------

    def error_count(self) -> ErrorCount | None:
        """The server's error count as last stored."""
        with self._outbox.reading() as connection:
            return holds.error_count(connection, self.channel)

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> list[Position]:
        """Not flushed: after a power cut the channel's token gives the position again.

        Rejected events are reported by the caller and stay in the file until newer ones take their room.
        """
        del rejected
        n, beats = position
        state = self._state
        is_passed = 0 < state.suspect_n < n
        aside = [(one, 0) for one in range(state.suspect_n, n)] if is_passed else []
        channel, outbox_id = self.channel, self._outbox.outbox_id
        if n > state.committed_n or errors != self.error_count():
            with self._outbox.writing(durable=is_passed) as connection:
                state = event_store.read_state(connection)
                if n > state.committed_n:
                    state = self._committed_state(connection, state, n, is_passed=is_passed)
                    event_store.write_state(connection, state)
                holds.note_errors(connection, channel, errors)
            self._known = (outbox_id, state)
        if position > self.committed:
            self._committed_beats = beats if n == state.committed_n else 0
        if self._made is not None and self._made <= position:
            self._end_heartbeat()
        return aside

    def _committed_state(
        self, connection: sqlite3.Connection, state: EventState, n: int, *, is_passed: bool
    ) -> EventState:
        found = connection.execute("SELECT chain FROM door_events WHERE n = ?", (n,)).fetchone()
        if found is None:
            raise OutboxReplacedError(f"there is no door event {n}", hint="sending starts again")
        self._committed_beats = 0
        suspect_n = 0 if is_passed else state.suspect_n
        return state._replace(committed_n=n, committed_chain=found[0], suspect_n=suspect_n)

    def _end_heartbeat(self) -> None:
        self._made = None
        self._heartbeats.sent()

    # --- refusals ---------------------------------------------------------------------------------

    @property
    def suspect(self) -> Position | None:
        """The event that is passed over."""
        n = self._state.suspect_n
        return (n, 0) if n else None

    def mark_suspect(self, position: Position) -> None:
        """On disk before any later event is sent. A heartbeat that is refused is given up instead."""
        if position[1]:
            self._end_heartbeat()
        else:
            self._store_suspect(position[0])

    def withdraw_suspect(self) -> None:
        """This event is sent again."""
        self._store_suspect(0)

    def _store_suspect(self, n: int) -> None:
        outbox_id = self._outbox.outbox_id
        with self._outbox.writing() as connection:
            state = event_store.read_state(connection)._replace(suspect_n=n)
            event_store.write_state(connection, state)
        self._known = (outbox_id, state)

    def went_back(self, position: Position) -> None:
        """Door events that Snowflake lost are not sent again: each of them was an alarm of its time."""
        channel_use.log_went_back(
            self.channel, f"door events after seq {self.seq(position) or 0} are lost there"
        )

    def request_generation(self, why: str) -> None:
        """A new outbox id for swipes as well: both share one history."""
        self._outbox.request_generation(why)
