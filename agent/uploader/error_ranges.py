"""Which rows a risen error count of the server falls on: pure arithmetic over positions.

A channel status has a running count of rows that could not be loaded, and an upper bound for the last
of them. It does not say which rows were bad, so a range is held that must contain them.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.outbox import ErrorCount, Position

_NONE: Position = (0, 0)


@dataclass(frozen=True, slots=True)
class Progress:
    """Positions around one channel status."""

    moved_from: Position  # committed before its last move that was recorded
    committed: Position  # recorded before this status
    reported: Position  # committed according to this status
    sent: Position


def new_errors(known: ErrorCount | None, reported: ErrorCount) -> int:
    """How many errors were counted since `known`.

    The count never falls while the channel lives, and begins at 0 when the channel is created again.
    """
    is_same_channel = known is not None and known.created_on_ms == reported.created_on_ms
    return max(0, reported.rows - (known.rows if known is not None and is_same_channel else 0))


def error_range(progress: Progress, bound: Position | None) -> tuple[Position, Position] | None:
    """The rows after one position up to another that contain the new errors; None if there are none.

    `bound` is the position of the last error's upper bound; None if it is missing or not ours.
    """
    bound = bound or _NONE
    after, reach = progress.committed, max(progress.reported, progress.committed)
    if _NONE < bound <= after:
        return _counted_late(progress.moved_from, reach, bound)
    if after < bound <= max(progress.reported, progress.sent):
        return after, bound
    if reach > after:
        return after, reach
    if progress.sent > after:
        return after, progress.sent
    return _counted_late(progress.moved_from, reach, bound)


def _counted_late(moved_from: Position, reach: Position, bound: Position) -> tuple[Position, Position] | None:
    """The range of errors counted only after their rows were committed.

    They are among the rows of the last commit, or, if no commit was recorded, the row of the bound.
    """
    if reach > moved_from:
        return moved_from, reach
    return ((bound[0], bound[1] - 1), bound) if bound > _NONE else None
