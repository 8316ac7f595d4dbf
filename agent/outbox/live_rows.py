"""New swipes as a row source: sent once, in order."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent import rows
from agent.outbox import channel_use, holds
from agent.outbox.row_source import Batch, ErrorCount, Position, Rejected
from agent.outbox.state import OutboxState
from agent.outbox.store import Outbox
from agent.outbox.timing.timestamps import STORED, BatchTimestamps, Columns, is_intact

_TOKEN = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{16}(?:[0-9a-f]{16})?)")


class LiveRows:
    """Pending swipes. An offset token is `<seq>-<chain>`: how far, and in which history.

    The source gives the rows of one generation, up to its end, through the channel of its outbox id. When
    all of them are committed, a switch to the channel of the next generation is due. While a switch is due,
    `channel` and the tokens are those of the channel used before.

    `may_wait_s` returns for how many seconds rows with an untrusted time may still wait for the clock.
    """

    where_kept = "they are kept: badge-agent outbox list"

    def __init__(self, outbox: Outbox, may_wait_s: Callable[[], float] = lambda: 0.0) -> None:
        self._outbox = outbox
        self._may_wait_s = may_wait_s
        self._waits = False

    @property
    def channel(self) -> str:
        """`<agent id>-<outbox id>`."""
        if self.is_switch_due():
            return self._outbox.state.record.channel
        state = self._outbox.state
        # While rows are withheld, a channel that no row was sent to: what is on its way is not waited for.
        outbox_id = state.outbox_id if state.is_withheld else state.sending.outbox_id
        return channel_use.name_of(self._outbox.agent_id, outbox_id)

    @property
    def pipe(self) -> str:
        """The key of the pipe that the channel is in."""
        known = self._outbox.state.record.pipe if self.is_switch_due() else ""
        return known or self._outbox.pipe

    def is_switch_due(self) -> bool:
        """True if the agent id, the pipe or the outbox id is another one than that of the last rows sent."""
        return self._outbox.is_switch_due

    def is_other_pipe(self) -> bool:
        """True if a switch to another pipe is due."""
        return channel_use.is_other_pipe(self._outbox.state.record.pipe, self._outbox.pipe)

    def recent_switches(self) -> tuple[int, int]:
        """Switches since the last commit, and the wall clock at the last of them in microseconds."""
        return self._outbox.state.record.switches, self._outbox.state.record.switched_us

    def switch(self, now_us: int) -> None:
        """Go to the next channel."""
        self._outbox.switch_channel(now_us)

    def record_channel(self, now_us: int) -> None:
        """On disk before the first row is sent to the channel."""
        self._outbox.record_channel(now_us)

    @property
    def committed(self) -> Position:
        """The high-water mark."""
        return (0, self._outbox.state.committed_n)

    def needs_channel(self) -> bool:
        """True: an agent shows at its start that it can deliver. False while older rows are recovered."""
        return not self._outbox.state.is_withheld

    def seq(self, position: Position) -> int | None:
        """The seq in the row as sent; None for a row of an outbox id that is forgotten."""
        found = self._outbox.state.position_of(position[1])
        return found.seq if found is not None else None

    def has_after(self, position: Position) -> bool:
        """True when rows of the same generation follow a position."""
        state = self._outbox.state
        if state.is_withheld:
            return False
        last = state.last_n_of(state.sending)
        while last in state.set_aside_numbers:
            last -= 1
        return last > position[1]

    @property
    def max_wait_s(self) -> float | None:
        """How long the next row waits for the clock at most; None if it does not."""
        return self._may_wait_s() if self._waits else None

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The rows that follow, without those set aside, with their times as known now."""
        state = self._outbox.state
        if state.is_withheld:
            return None
        taken = self._intact_after(state, position[1], limit, max_bytes)
        timestamps = BatchTimestamps(
            self._outbox.boots, self._outbox.state.applied_curves, may_wait=self._may_wait_s() > 0
        )
        stored = timestamps.rows(taken)
        self._waits = bool(taken) and not stored
        if not stored:
            return None
        # Stored before the rows are sent: a replay must carry the same times.
        self._outbox.apply_curves(timestamps.new)
        first, last = taken[0], taken[len(stored) - 1]
        numbered = zip((columns[0] for columns in taken), stored, strict=False)
        return Batch(
            rows=rows.all_as_sent(numbered, *state.sending),
            last=(0, last[0]),
            first_token=self._token(*first[:2]),
            last_token=self._token(*last[:2]),
        )

    def oldest_pending_boot_us(self, boot_id: str) -> int | None:
        """The boot-time clock at the oldest pending swipe of this boot; None without one."""
        number = self._outbox.boots.number_of(boot_id)
        with self._outbox.reading() as connection:
            found = connection.execute(
                "SELECT boot_us FROM swipes WHERE n > ? AND boot = ? ORDER BY n LIMIT 1",
                (self._outbox.state.committed_n, number),
            ).fetchone()
        return found[0] if found is not None and isinstance(found[0], int) else None

    def _intact_after(self, state: OutboxState, n: int, limit: int, max_bytes: int) -> list[Columns]:
        """The next rows of this generation. A damaged row is held for an operator and passed over."""
        end = state.last_n_of(state.sending)
        while n < end:
            taken, damaged = self._read_after(state, n, end, limit, max_bytes)
            self._outbox.hold_damaged(damaged)
            if taken or not damaged:
                if not taken and n == state.committed_n and end < state.last_n:
                    # Otherwise the rows of the next generation would never be sent.
                    self._outbox.hold_lost(n + 1, end)
                return taken
            n = damaged[-1]
        return []

    def _read_after(
        self, state: OutboxState, n: int, end: int, limit: int, max_bytes: int
    ) -> tuple[list[Columns], list[int]]:
        """Rows after `n` up to `end`, and the numbers of damaged ones among them."""
        taken: list[Columns] = []
        damaged: list[int] = []
        size, legacy_n = 0, state.record.legacy_n
        with self._outbox.reading() as connection:
            aside = self._outbox.set_aside_numbers
            cursor = connection.execute(
                f"SELECT {STORED} FROM swipes WHERE n > ? AND n <= ? ORDER BY n LIMIT ?",
                (n, end, limit + len(aside)),
            )
            for found in cursor:
                if found[0] in aside:
                    continue
                if not is_intact(found, legacy_n):
                    damaged.append(found[0])
                    continue
                taken.append(found)
                size += len(found[3])
                if size >= max_bytes or len(taken) >= limit:
                    break
            cursor.close()  # ends the read transaction, so that a checkpoint can pass
        return taken, damaged

    def committed_token(self) -> str | None:
        """The token of the high-water mark; None before the first commit of this generation."""
        state, base = self._outbox.state, self._base()
        if base is None or state.committed_n <= base:
            return None
        return f"{state.committed_n - base}-{state.committed_chain}"

    def position_of(self, offset_token: str) -> Position | None:
        """A token is valid if the row with its seq has its chain, or if it is the high-water mark's.

        Before the high-water mark also if the row was purged, and its chain with it.
        """
        parts, base, state = _TOKEN.fullmatch(offset_token), self._base(), self._outbox.state
        if parts is None or base is None:
            return None
        n, chain = base + int(parts[1]), parts[2]
        if offset_token == self.committed_token():
            return (0, n)
        if n > (state.last_n if self.is_switch_due() else state.last_n_of(state.sending)):
            return None
        with self._outbox.reading() as connection:
            found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (n,)).fetchone()
        is_ours = found[0] == chain if found is not None else n < state.committed_n
        return (0, n) if is_ours else None

    def _base(self) -> int | None:
        """What is added to the seq in a token of `channel` to get n; None if it is not known."""
        if not self.is_switch_due():
            return self._outbox.state.base
        first_n = self._outbox.state.record.channel_first_n
        return first_n - 1 if first_n > 0 else None

    def went_back(self, position: Position) -> None:
        """Queue a replay of the rows after a position that the server had committed, and lost."""
        first_n, last_n = position[1] + 1, self._outbox.state.committed_n
        first_n = max(first_n, (self._base() or 0) + 1)
        self._outbox.replay_again(first_n, last_n)
        with self._outbox.reading() as connection:
            (kept,) = connection.execute(
                "SELECT count(*) FROM swipes WHERE n BETWEEN ? AND ?", (first_n, last_n)
            ).fetchone()
        channel_use.log_went_back(
            self.channel,
            f"{kept} of {last_n - first_n + 1} rows that it had confirmed are still stored and are sent "
            "again as a replay",
        )

    def error_count(self) -> ErrorCount | None:
        """The server's error count as last stored."""
        with self._outbox.reading() as connection:
            return holds.error_count(connection, self.channel)

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> list[Position]:
        """Not flushed: after a power cut the channel's token gives the position again."""
        aside = self._outbox.mark_committed(
            position[1], channel=self.channel, errors=errors, rejected=rejected
        )
        return [(0, n) for n in aside]

    @property
    def suspect(self) -> Position | None:
        """The row that is passed over; part of the state record."""
        n = self._outbox.state.record.suspect_n
        return (0, n) if n else None

    def mark_suspect(self, position: Position) -> None:
        """On disk before any later row is sent: the token will pass over this one."""
        self._outbox.mark_suspect(position[1])

    def withdraw_suspect(self) -> None:
        """This row is sent again."""
        self._outbox.mark_suspect(0)

    def request_generation(self, why: str) -> None:
        """A switch is due, with new outbox ids for everything pending."""
        self._outbox.request_generation(why)

    def _token(self, n: int, chain: str) -> str:
        return f"{n - self._outbox.state.base}-{chain}"
