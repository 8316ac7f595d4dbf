"""Ranges of row numbers, both ends included."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]


def subtract(ranges: Iterable[Range], taken: Iterable[Range]) -> list[Range]:
    """The parts of ranges, in order and without overlaps, that no taken range covers."""
    left = list(ranges)
    for first, last in taken:
        left = [part for one in left for part in _without(one, first, last)]
    return left


def _without(one: Range, first: int, last: int) -> list[Range]:
    before, after = (one[0], min(one[1], first - 1)), (max(one[0], last + 1), one[1])
    return [part for part in dict.fromkeys((before, after)) if part[0] <= part[1]]
