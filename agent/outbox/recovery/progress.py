"""What is still to be moved from quarantined files: the member `recovering` of the state record."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# What is done next with a quarantined file, in this order.
STATE = "state"  # look for the committed position in its bytes
ALL = "all"  # the committed position is unknown: move every row, then derive it
PENDING = "pending"  # move the rows after the committed position
MOVED = "moved"  # that is done; other quarantined files still have pending rows
KEPT = "kept"  # move the committed rows, for replays
_PARTS = (STATE, ALL, PENDING, MOVED, KEPT)


class Recovery(NamedTuple):
    """The progress with one quarantined file: rows first_n..end_n are still to be moved, from begin_n on.

    `last_n` is a number known to have been given to a row (0: none is known), `end_n` the last one that can
    have been; the next generation begins after it. `is_whole`: no row of it is known to be lost.
    `searched_bytes`: how far the search of its bytes was when last noted; a restart begins it again.
    """

    name: str
    part: str
    begin_n: int
    first_n: int
    last_n: int
    end_n: int
    is_whole: bool
    searched_bytes: int = 0

    @property
    def withholds(self) -> bool:
        """Whether pending rows may be missing: rows after them must not be sent yet."""
        return self.part != KEPT

    def is_before(self, other: Recovery) -> bool:
        """Whether more is still to be moved than in the other progress with the same file."""
        return (_PARTS.index(self.part), self.first_n) < (_PARTS.index(other.part), other.first_n)

    def up_to(self, end_n: int) -> Recovery:
        """The same recovery, of numbers up to `end_n` only."""
        return self._replace(last_n=min(self.last_n, end_n), end_n=min(self.end_n, end_n))

    @property
    def done(self) -> int:
        """How many numbers are done with in this part."""
        return self.first_n - self.begin_n

    @property
    def total(self) -> int:
        """How many numbers there are to do in this part; an upper limit where the last number is unknown."""
        return max(self.last_n or self.end_n, self.first_n - 1) - self.begin_n + 1


def written(recoveries: Iterable[Recovery]) -> str:
    """The text of `recovering`; "" for none."""
    return ";".join(
        f"{one.name} {one.part} {one.begin_n} {one.first_n} {one.last_n} {one.end_n} {int(one.is_whole)} "
        f"{one.searched_bytes}"
        for one in recoveries
    )


def parsed(text: str) -> tuple[Recovery, ...]:
    """The recoveries in a text of `recovering`. Raises ValueError."""
    return tuple(map(_parsed, text.split(";"))) if text else ()


def readable(text: str) -> tuple[Recovery, ...]:
    """As parsed(); none for a text that is damaged."""
    try:
        return parsed(text)
    except ValueError:
        return ()


def _parsed(text: str) -> Recovery:
    name, part, *numbers = text.split(" ")
    begin_n, first_n, last_n, end_n, is_whole, *searched_bytes = map(int, numbers)
    if part not in _PARTS or "/" in name or len(searched_bytes) > 1:
        raise ValueError(text)
    return Recovery(name, part, begin_n, first_n, last_n, end_n, bool(is_whole), *searched_bytes)
