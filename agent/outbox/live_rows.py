"""The swipes as they came in, as a source of rows: sent once, in order."""

from __future__ import annotations

import re
from collections.abc import Callable

from agent.errors import OutboxReplacedError
from agent.outbox import holds
from agent.outbox.row_source import Batch, ErrorCount, Position, Rejected
from agent.outbox.store import Outbox
from agent.outbox.timing.timestamps import STORED, BatchTimestamps, Columns

_TOKEN = re.compile(r"([1-9][0-9]{0,17})-([0-9a-f]{16})")


class LiveRows:
    """Pending swipes. An offset token is `<seq>-<chain>`: how far, and in which history.

    `may_wait_s` tells for how many seconds rows with an untrusted time may still wait for the clock.
    """

    def __init__(self, outbox: Outbox, may_wait_s: Callable[[], float] = lambda: 0.0) -> None:
        self._outbox = outbox
        self._may_wait_s = may_wait_s
        self._waits = False

    @property
    def channel(self) -> str:
        """`<agent id>-<outbox id>`."""
        return f"{self._outbox.agent_id}-{self._outbox.state.outbox_id}"

    @property
    def committed(self) -> Position:
        """The high-water mark."""
        return (0, self._outbox.state.committed_n)

    def needs_channel(self) -> bool:
        """Always: an agent shows at its start that it can deliver, not at its first swipe."""
        return True

    def seq(self, position: Position) -> int | None:
        """As the row has it."""
        return self._outbox.seq_of(position[1])

    def has_after(self, position: Position) -> bool:
        """True when rows follow a position."""
        last = self._outbox.state.last_n
        while last in self._outbox.set_aside_numbers:
            last -= 1
        return last > position[1]

    @property
    def max_wait_s(self) -> float | None:
        """How long the next row waits for the clock at most; None if it does not."""
        return self._may_wait_s() if self._waits else None

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The rows that follow, without those set aside, with the times that are known of them now."""
        taken = self._outbox.surviving(lambda: self._after(position[1], limit, max_bytes))
        sending = BatchTimestamps(
            self._outbox.boots, self._outbox.used_timings, may_wait=self._may_wait_s() > 0
        )
        rows = sending.rows(taken)
        self._waits = bool(taken) and not rows
        if not rows:
            return None
        # Before they go: a row that is replayed must carry the time that it had.
        self._outbox.use_timings(sending.new)
        first, last = taken[0], taken[len(rows) - 1]
        return Batch(
            rows=rows,
            last=(0, last[0]),
            first_token=self._token(*first[:2]),
            last_token=self._token(*last[:2]),
        )

    def _after(self, n: int, limit: int, max_bytes: int) -> list[Columns]:
        taken: list[Columns] = []
        size, aside = 0, self._outbox.set_aside_numbers
        with self._outbox.file.reading() as connection:
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
            cursor.close()  # ends the look at the file, so that a checkpoint can pass
        return taken

    def committed_token(self) -> str | None:
        """The token of the high-water mark."""
        me = self._outbox.state
        return self._token(me.committed_n, me.committed_chain) if me.committed_n > me.base else None

    def position_of(self, offset_token: str) -> Position | None:
        """A token is ours if the row with that seq has that chain, or if it is the mark's own."""
        ours = _TOKEN.fullmatch(offset_token)
        if ours is None:
            return None
        n, chain = self._outbox.state.base + int(ours[1]), ours[2]
        if offset_token == self.committed_token():
            return (0, n)
        return self._outbox.surviving(lambda: self._position_of(n, chain))

    def _position_of(self, n: int, chain: str) -> Position | None:
        with self._outbox.file.reading() as connection:
            found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (n,)).fetchone()
        return (0, n) if found is not None and found[0] == chain else None

    def error_count(self) -> ErrorCount | None:
        """As last written down."""
        return self._outbox.surviving(lambda: holds.error_count(self._outbox.file, self.channel))

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> None:
        """Not flushed: after a power cut the remote token tells it again."""
        self._outbox.settle(lambda: self._commit(position[1], errors, rejected))

    def _commit(self, n: int, errors: ErrorCount, rejected: Rejected | None) -> None:
        me = self._outbox.state
        n, chain = max(n, me.committed_n), me.committed_chain
        with self._outbox.file.writing(durable=False) as connection:
            if n > me.committed_n:
                found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (n,)).fetchone()
                if found is None:
                    raise OutboxReplacedError(f"there is no swipe {n}", hint="sending starts again")
                (chain,) = found
                connection.execute("UPDATE state SET committed_n = ?, committed_chain = ?", (n, chain))
            holds.note_errors(connection, self.channel, errors)
            if rejected is not None:
                holds.reject(connection, rejected.after[1] + 1, rejected.last[1], rejected.reason)
        me.committed_n, me.committed_chain = n, chain

    def set_aside(self, position: Position, reason: str) -> None:
        """On disk before anything behind the row is sent: the token will pass over it."""
        n = position[1]

        def mark() -> None:
            with self._outbox.file.writing() as connection:
                holds.set_aside(connection, n, reason)

        self._outbox.surviving(mark)
        self._outbox.set_aside_numbers = self._outbox.set_aside_numbers | {n}

    def restore(self, positions: list[Position]) -> None:
        """They are pending again."""
        numbers = [n for _, n in positions]

        def unmark() -> None:
            with self._outbox.file.writing() as connection:
                holds.restore(connection, numbers)

        self._outbox.surviving(unmark)
        self._outbox.set_aside_numbers = self._outbox.set_aside_numbers - set(numbers)

    def start_generation(self, why: str) -> None:
        """A new outbox id for everything pending."""
        self._outbox.surviving(lambda: self._outbox.start_generation(why))

    def _token(self, n: int, chain: str) -> str:
        return f"{n - self._outbox.state.base}-{chain}"
