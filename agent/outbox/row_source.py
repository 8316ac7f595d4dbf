"""What a channel sender needs of the rows it delivers: their order, the committed position, refusals."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

# The position of a row in its source: live rows are (0, n), replayed ones (replay id, n), door events (n, 0).
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows as the pipe takes them, one JSON object each."""

    rows: list[bytes] = field(repr=False)
    last: Position
    first_token: str
    last_token: str
    # False if no row of it is stored: then no late error count is asked for, as nothing could be held.
    is_stored: bool = True


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """The server's running count of rows it could not load, since the channel was created."""

    created_on_ms: int
    rows: int
    # Where the last batches begin and end, oldest first: the rows that an error may still be counted among.
    bounds: tuple[Position, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows after one position up to another, among which the server counted an error."""

    after: Position
    last: Position
    reason: str


class RowSource(Protocol):
    """Rows in order, with a committed position that only commit() moves.

    Methods raise OutboxReplacedError if the outbox was damaged and replaced: then every position that
    the caller holds is invalid. All raise OutboxUnavailableError while it cannot be used.
    """

    @property
    def where_kept(self) -> str:
        """What becomes of rows that Snowflake could not load, for the log."""

    @property
    def channel(self) -> str:
        """The name of the channel for these rows; while a switch is due, the one used before."""

    @property
    def pipe(self) -> str:
        """The key of the pipe that the channel is in; "" for the only one."""

    def is_switch_due(self) -> bool:
        """True if rows go to another channel next: open `channel`, commit its position, then switch()."""

    def is_other_pipe(self) -> bool:
        """True if a switch to another pipe is due."""

    def recent_switches(self) -> tuple[int, int]:
        """Switches since the last commit, and the wall clock at the last of them in microseconds."""

    def switch(self, now_us: int) -> None:
        """Go to the next channel: `channel` was fenced, and its position committed, or it was given up."""

    def record_channel(self, now_us: int) -> None:
        """Record durably that rows are sent to `channel`; before the first of them."""

    @property
    def committed(self) -> Position:
        """The last row known to be committed."""

    def needs_channel(self) -> bool:
        """False if there is nothing to send and no position to ask for: no channel need be open."""

    def seq(self, position: Position) -> int | None:
        """The seq of the row at a position; None if the row belongs to an earlier outbox id."""

    def has_after(self, position: Position) -> bool:
        """True if rows follow a position."""

    @property
    def max_wait_s(self) -> float | None:
        """The most seconds for which after() withholds the next rows; None if it withholds none."""

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The rows that follow: at least one, at most `limit`, about `max_bytes`. None if there are none."""

    def committed_token(self) -> str | None:
        """The offset token of `committed`; None before the first commit."""

    def position_of(self, offset_token: str) -> Position | None:
        """The position of a token; None if the token is not of this history."""

    def error_count(self) -> ErrorCount | None:
        """The server's error count as last recorded by commit(); None before that."""

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> list[Position]:
        """Record that everything up to a position is committed; an earlier position is ignored.

        Returns the rows that this set aside, see `suspect`.
        """

    @property
    def suspect(self) -> Position | None:
        """The row that is passed over because it was refused on its own for long; None if there is none.

        When a later row is committed, commit() sets it and every row between the two aside: they are held
        for an operator. So that row has to be the first one that was accepted after the suspect.
        """

    def mark_suspect(self, position: Position) -> None:
        """Pass over this row until it is set aside or the suspicion is withdrawn; on disk on return."""

    def withdraw_suspect(self) -> None:
        """The suspect is an ordinary row again; on disk on return."""

    def went_back(self, position: Position) -> None:
        """The server reports an earlier position than it had confirmed: log it, and send the rows again."""

    def request_generation(self, why: str) -> None:
        """The channel holds a history that is not ours: a switch to a new outbox id is due."""
