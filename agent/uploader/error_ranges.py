"""Which rows a risen error count of the server falls on: pure bookkeeping over positions.

A channel status has a running count of rows that could not be loaded, and an upper bound for the last
of them. It does not say which rows were bad, and it may rise minutes after the rows were committed. So the
bounds of the last batches are kept (and stored with each commit), and batches are held that must
contain the errors. In doubt more rows are held.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from agent.outbox import ErrorCount, Position

# An error is counted at most so long after the commit: then the count is polled once more.
LATE_S = 300.0
# While no status has a count that can be read, one is asked for every LATE_S, for so long after the commit.
_UNREADABLE_S = 86_400.0
_TOLERANCE_S = 1.0
_MOST_BATCHES = 64
_NONE: Position = (0, 0)


def new_errors(known: ErrorCount | None, reported: ErrorCount) -> int:
    """How many errors were counted since `known`.

    The count never falls while the channel lives, and begins at 0 when the channel is created again.
    """
    is_same_channel = known is not None and known.created_on_ms == reported.created_on_ms
    return max(0, reported.rows - (known.rows if known is not None and is_same_channel else 0))


@dataclass(slots=True)
class _SentBatch:
    """The rows after the batch before, up to `last`."""

    last: Position
    committed_at: float | None = None
    is_counted: bool = False  # the count was read long enough after its commit, or not readable for a day


class SentBatches:
    """The last batches sent, oldest first. `now` is in seconds of a monotonic clock."""

    def __init__(self, stored: Sequence[Position], committed: Position, now: float) -> None:
        """`stored` are the bounds as last stored; when their rows were committed is not known."""
        self._start, self._start_at = (stored[0] if stored else committed), now
        self._unreadable_at = -math.inf
        self._batches = [_SentBatch(last, now) for last in stored[1:]]

    @property
    def bounds(self) -> tuple[Position, ...]:
        """Where the first batch begins and where each committed one ends: what is to be stored."""
        return (
            self._start,
            *(batch.last for batch in self._batches if batch.committed_at is not None),
        )

    @property
    def count_due_at(self) -> float | None:
        """When the count is to be polled next; None if that of everything committed is final."""
        times = [
            batch.committed_at
            for batch in self._batches
            if batch.committed_at is not None and not batch.is_counted
        ]
        return max(*times, self._unreadable_at) + LATE_S if times else None

    @property
    def final(self) -> Position:
        """Everything up to here is committed, and its count is final."""
        position = self._start
        for batch in self._batches:
            if not batch.is_counted:
                break
            position = batch.last
        return position

    def sent(self, last: Position) -> None:
        """A batch up to `last` was accepted."""
        self._batches.append(_SentBatch(last))
        self._merge_some()

    def committed(self, position: Position, now: float) -> None:
        """Everything up to a position is committed."""
        for batch in self._batches:
            if batch.committed_at is None and batch.last <= position:
                batch.committed_at = now

    def reopened(self, position: Position, now: float) -> None:
        """The channel was opened at a position: what was sent after it is sent again, in other batches."""
        self.committed(position, now)
        self._batches = [batch for batch in self._batches if batch.committed_at is not None]
        if position > self._newest:
            self._batches.append(_SentBatch(position, now))

    def counted(self, now: float, *, is_readable: bool = True) -> None:
        """Note that the count was read, and its rise, if any, applied; or that a status had none to read."""
        if not is_readable:
            self._unreadable_at = now
        final_after_s = LATE_S if is_readable else _UNREADABLE_S
        for batch in self._batches:
            if batch.committed_at is not None and now - batch.committed_at >= final_after_s - _TOLERANCE_S:
                batch.is_counted = True

    def with_errors(
        self, count: int, bound: Position | None, reported: Position
    ) -> tuple[Position, Position] | None:
        """The rows after one position up to another that contain `count` new errors; None if none was sent.

        `bound` is the position of the last error's upper bound, None if it is missing or not ours;
        `reported` what the same status reports as committed.
        """
        ranges = self._ranges(reported)
        if not ranges:
            return None
        open_after = next((after for after, _, is_counted in ranges if not is_counted), self._start)
        newest = ranges[-1][1]
        if bound is None or not _NONE < bound <= newest:
            return open_after, newest
        for after, last, _ in ranges:
            if after < bound <= last:
                # Only the last of several errors has a bound.
                return (after if count == 1 else min(after, open_after)), last
        return (bound[0], bound[1] - 1), newest

    @property
    def _newest(self) -> Position:
        return self._batches[-1].last if self._batches else self._start

    def _ranges(self, reported: Position) -> list[tuple[Position, Position, bool]]:
        """Start, end and `is_counted` of each batch; rows that are committed and in no batch are one more."""
        ranges, after = [], self._start
        for batch in self._batches:
            ranges.append((after, batch.last, batch.is_counted))
            after = batch.last
        if reported > after:
            ranges.append((after, reported, False))
        return ranges

    def _merge_some(self) -> None:
        """Keep few batches: forget the oldest if its count is final, else join the two with the least time.

        So the bounds of a steady stream are some seconds apart, and the oldest become final in time.
        """
        while len(self._batches) > _MOST_BATCHES:
            oldest = self._batches[0]
            if oldest.is_counted and oldest.committed_at is not None:
                self._start, self._start_at = oldest.last, oldest.committed_at
                del self._batches[0]
            else:
                del self._batches[min(range(len(self._batches) - 1), key=self._span_without)]

    def _span_without(self, index: int) -> float:
        """Seconds between the commits around a batch; rows not committed yet are joined last."""
        before = self._batches[index - 1].committed_at if index else self._start_at
        after = self._batches[index + 1].committed_at
        return math.inf if before is None or after is None else after - before
