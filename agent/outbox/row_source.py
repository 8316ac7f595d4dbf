"""What a lane asks of the rows that go through it: in which order, how far, and what became of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

# Where a row stands in its source: live rows are (0, n), replayed ones (replay id, n).
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows as they go to the pipe, one JSON object each."""

    rows: list[bytes] = field(repr=False)
    last: Position
    first_token: str
    last_token: str


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """The server's count of rows it could not load, which runs since the channel was created."""

    created_on_ms: int
    rows: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows after one position up to another, among which the server counted an error."""

    after: Position
    last: Position
    reason: str


class Source(Protocol):
    """Rows in order, with a position that only a commit moves.

    Methods raise OutboxReplacedError when the outbox was damaged and replaced: every position
    held outside means nothing then.
    """

    @property
    def channel(self) -> str:
        """The name of the channel these rows go through; a new name is a new history."""

    @property
    def committed(self) -> Position:
        """The last row known to be committed."""

    def needs_channel(self) -> bool:
        """False when there is nothing to send and nothing to ask, so that no channel need be open."""

    def seq(self, position: Position) -> int | None:
        """The seq of the row at a position; None for a row of an id that the outbox had before."""

    def has_after(self, position: Position) -> bool:
        """True when rows follow a position."""

    @property
    def max_wait_s(self) -> float | None:
        """Seconds for which rows that after() does not give yet wait at most; None if none do."""

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The rows that follow, at most `limit` of them and about `max_bytes`, at least one."""

    def committed_token(self) -> str | None:
        """The offset token of `committed`; None before the first commit."""

    def position_of(self, offset_token: str) -> Position | None:
        """The position a token names, or None if it is none of this history."""

    def error_count(self) -> ErrorCount | None:
        """The server's error count as it stood when we last looked."""

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> None:
        """Everything up to a position is committed; going backwards is ignored."""

    def set_aside(self, position: Position, reason: str) -> None:
        """The server refuses this row on its own: keep it for an operator, go on behind it."""

    def restore(self, positions: list[Position]) -> None:
        """They were not refused for their own sake after all."""

    def start_generation(self, why: str) -> None:
        """The channel holds a history that is not ours: take a new name."""
