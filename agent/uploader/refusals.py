"""Bisection of refused batches: pure bookkeeping, without IO, log or row source.

Snowflake refuses an append as a whole (400 or 413) and does not name the row at fault. The batch is
halved until one row is left; a row that is refused alone is set aside. If many single rows are refused
and none is accepted in between, the cause lies elsewhere (a proxy, a changed pipe): the rows set aside
in that series are restored, and from then on one row per request is tried until one is accepted.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.outbox import Position

# This many consecutive refusals of single rows have another cause than the rows.
REFUSED_IN_A_ROW = 25


@dataclass(frozen=True, slots=True)
class Split:
    """Send the same rows again in smaller batches: see `Refusals.max_rows`."""


@dataclass(frozen=True, slots=True)
class SetAside:
    """This row is refused by itself. `repeated`: also in a series that restored its rows before."""

    position: Position
    repeated: bool


@dataclass(frozen=True, slots=True)
class Restore:
    """The refusals have another cause than the rows: make these rows pending again, and wait."""

    positions: tuple[Position, ...]


Verdict = Split | SetAside | Restore


class Refusals:
    """Decides after each refused batch what to send next. One instance per channel position."""

    def __init__(self) -> None:
        self._max_rows: int | None = None
        self._until: Position = (0, 0)  # the end of the batch that was refused first
        self._refused: list[Position] = []  # single rows, since the last batch that was accepted
        self._is_distrusted = False  # rows were restored, and none was accepted since

    @property
    def max_rows(self) -> int | None:
        """The most rows that the next batch may have; None when no batch is being bisected."""
        return self._max_rows

    def accepted(self, last: Position) -> None:
        """A batch that ends at `last` was accepted."""
        self._refused.clear()
        self._is_distrusted = False
        if self._max_rows is not None and last >= self._until:
            self._max_rows = None

    def refused(self, rows: int, last: Position) -> Verdict:
        """A batch of `rows` rows that ends at `last` was refused."""
        if rows > 1:
            if self._max_rows is None:
                self._until = last
            self._max_rows = rows // 2
            return Split()
        self._refused.append(last)
        if len(self._refused) >= REFUSED_IN_A_ROW:
            restored = tuple(self._refused)
            self._refused.clear()
            self._is_distrusted = True
            self._max_rows, self._until = 1, last
            return Restore(restored)
        if not self._is_distrusted:
            self._max_rows = None
        return SetAside(last, repeated=self._is_distrusted)
