"""New swipes as a row source: sent once, in order."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent.outbox import holds
from agent.outbox.row_source import Batch, ErrorCount, Position, Rejected
from agent.outbox.store import Outbox
from agent.outbox.timing.timestamps import STORED, BatchTimestamps, Columns

_TOKEN = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{16})")


class LiveRows:
    """Pending swipes. An offset token is `<seq>-<chain>`: how far, and in which history.

    `may_wait_s` returns for how many seconds rows with an untrusted time may still wait for the clock.
    """

    def __init__(self, outbox: Outbox, may_wait_s: Callable[[], float] = lambda: 0.0) -> None:
        self._outbox = outbox
        self._may_wait_s = may_wait_s
        self._waits = False

    @property
    def channel(self) -> str:
        """`<agent id>-<outbox id>`."""
        return f"{self._outbox.agent_id}-{self._outbox.outbox_id}"

    @property
    def committed(self) -> Position:
        """The high-water mark."""
        return (0, self._outbox.state.committed_n)

    def needs_channel(self) -> bool:
        """Always true: an agent shows at its start that it can deliver, not at its first swipe."""
        return True

    def seq(self, position: Position) -> int | None:
        """The seq in the row; None for a row of an earlier outbox id."""
        return self._outbox.state.seq_of(position[1])

    def has_after(self, position: Position) -> bool:
        """True when rows follow a position."""
        state = self._outbox.state
        last = state.last_n
        while last in state.set_aside_numbers:
            last -= 1
        return last > position[1]

    @property
    def max_wait_s(self) -> float | None:
        """How long the next row waits for the clock at most; None if it does not."""
        return self._may_wait_s() if self._waits else None

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The rows that follow, without those set aside, with their times as known now."""
        taken = self._read_after(position[1], limit, max_bytes)
        timestamps = BatchTimestamps(
            self._outbox.boots, self._outbox.state.applied_curves, may_wait=self._may_wait_s() > 0
        )
        rows = timestamps.rows(taken)
        self._waits = bool(taken) and not rows
        if not rows:
            return None
        # Stored before the rows are sent: a replay must carry the same times.
        self._outbox.apply_curves(timestamps.new)
        first, last = taken[0], taken[len(rows) - 1]
        return Batch(
            rows=rows,
            last=(0, last[0]),
            first_token=self._token(*first[:2]),
            last_token=self._token(*last[:2]),
        )

    def _read_after(self, n: int, limit: int, max_bytes: int) -> list[Columns]:
        taken: list[Columns] = []
        size = 0
        with self._outbox.reading() as connection:
            aside = self._outbox.set_aside_numbers
            cursor = connection.execute(
                f"SELECT {STORED} FROM swipes WHERE n > ? ORDER BY n LIMIT ?", (n, limit + len(aside))
            )
            for found in cursor:
                if found[0] in aside:
                    continue
                taken.append(found)
                size += len(found[3])
                if size >= max_bytes or len(taken) >= limit:
                    break
            cursor.close()  # ends the read transaction, so that a checkpoint can pass
        return taken

    def committed_token(self) -> str | None:
        """The token of the high-water mark; None before the first commit of this generation."""
        state = self._outbox.state
        return self._token(state.committed_n, state.committed_chain) if state.committed_seq > 0 else None

    def position_of(self, offset_token: str) -> Position | None:
        """A token is valid if the row with its seq has its chain, or if it is the high-water mark's."""
        parts = _TOKEN.fullmatch(offset_token)
        if parts is None:
            return None
        n, chain = self._outbox.state.base + int(parts[1]), parts[2]
        if offset_token == self.committed_token():
            return (0, n)
        with self._outbox.reading() as connection:
            found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (n,)).fetchone()
        return (0, n) if found is not None and found[0] == chain else None

    def error_count(self) -> ErrorCount | None:
        """The server's error count as last stored."""
        with self._outbox.reading() as connection:
            return holds.error_count(connection, self.channel)

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> None:
        """Not flushed: after a power cut the channel's token gives the position again."""
        self._outbox.mark_committed(position[1], channel=self.channel, errors=errors, rejected=rejected)

    def set_aside(self, position: Position, reason: str) -> None:
        """On disk before any later row is sent: the token will pass over this one."""
        self._outbox.set_aside(position[1], reason)

    def restore(self, positions: list[Position]) -> None:
        """These rows are pending again."""
        self._outbox.restore([n for _, n in positions])

    def start_generation(self, why: str) -> None:
        """A new outbox id for everything pending."""
        self._outbox.start_generation(why)

    def _token(self, n: int, chain: str) -> str:
        return f"{n - self._outbox.state.base}-{chain}"
