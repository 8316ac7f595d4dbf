"""The interface between a channel sender and its rows: order, position, and outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

# The position of a row in its source: live rows are (0, n), replayed ones (replay id, n).
Position = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Batch:
    """Consecutive rows as sent to the pipe, one JSON object each."""

    rows: list[bytes] = field(repr=False)
    last: Position
    first_token: str
    last_token: str


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """The server's count of rows it could not load since the channel was created."""

    created_on_ms: int
    rows: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """Rows after one position up to another, in which the server counted an error."""

    after: Position
    last: Position
    reason: str


class Source(Protocol):
    """Rows in order, with a committed position that only commit() moves.

    Methods raise OutboxReplacedError when the outbox was damaged and replaced: every position
    that the caller holds is then invalid.
    """

    @property
    def channel(self) -> str:
        """The name of the channel for these rows; a new name is a new history."""

    @property
    def committed(self) -> Position:
        """The last row known to be committed."""

    def needs_channel(self) -> bool:
        """False when there is nothing to send or to poll for, so that no channel has to be open."""

    def seq(self, position: Position) -> int | None:
        """The seq of the row at a position; None for a row of an earlier outbox id."""

    def has_after(self, position: Position) -> bool:
        """True when rows follow a position."""

    @property
    def max_wait_s(self) -> float | None:
        """The longest time in seconds that after() withholds rows; None if it withholds none."""

    def after(self, position: Position, limit: int, *, max_bytes: int) -> Batch | None:
        """The rows after a position, at most `limit` and about `max_bytes`; None if there are none."""

    def committed_token(self) -> str | None:
        """The offset token of `committed`; None before the first commit."""

    def position_of(self, offset_token: str) -> Position | None:
        """The position of a token, or None if the token is not from this history."""

    def error_count(self) -> ErrorCount | None:
        """The server's error count as last stored; None if there was none."""

    def commit(self, position: Position, errors: ErrorCount, rejected: Rejected | None) -> None:
        """Store that everything up to a position is committed; an earlier position is ignored."""

    def set_aside(self, position: Position, reason: str) -> None:
        """Hold a row that the server refuses on its own for an operator, and pass over it."""

    def restore(self, positions: list[Position]) -> None:
        """Undo set_aside(): the rows were not the cause of the refusal."""

    def start_generation(self, why: str) -> None:
        """Take a new name, because the channel holds another history."""
