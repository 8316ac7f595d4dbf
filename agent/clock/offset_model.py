"""When things really happened: what is known of each boot's clock, and the time it gives to a moment.

On Linux the wall clock and the boot-time clock run at one rate, whatever NTP makes of it: their
difference, here "offset", changes only when somebody sets the wall clock. So one look at a wall clock
that is right tells the time of everything before it in the same boot. What remains is drift: without
a time server both clocks run off together, and the next correction shows by how much.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.clock.reading import ClockReading

# No clock runs off faster without being wrong altogether: the kernel's own tolerance (adjtimex(2)).
DRIFT = 500 / 1_000_000
# The clock is taken for set anew, not for corrected, when it moves by more than that.
STEP_US = 1_000_000
# Two offsets that differ by less are one: it is the noise of reading two clocks.
_SAME_US = 1_000
# Each loss of the time server adds two points. Past so many the older ones in the middle are dropped: rows
# between them would be interpolated over a longer time.
_POINTS_MAX = 64


@dataclass(frozen=True, slots=True)
class OffsetSample:
    """At `boot_us` since boot, the right time was boot_us + offset_us, give or take `error_us`.

    0: the word of a synchronised kernel. None: nothing is known that would limit the error.
    """

    boot_us: int
    offset_us: int
    error_us: int | None = 0

    def bound_us(self, boot_us: int, drift: float = DRIFT) -> float:
        """How far off its offset may be at another moment of the same boot."""
        return math.inf if self.error_us is None else self.error_us + drift * abs(boot_us - self.boot_us)


@dataclass(frozen=True, slots=True)
class OffsetEstimate:
    """The offset at one moment; `sure` when it rests on synchronised clocks alone."""

    offset_us: int
    bound_us: float
    sure: bool


@dataclass(frozen=True, slots=True)
class OffsetCurve:
    """The offset over a whole boot: straight lines between points, in their order, flat outside."""

    points: tuple[OffsetSample, ...]

    def at(self, boot_us: int) -> OffsetEstimate:
        """The offset at a moment, and how far off it can be.

        What synchronised clocks say is not mixed with a server's word where it is better alone.
        """
        mixed = _on_lines(self.points, boot_us)
        sure = () if mixed.sure else tuple(point for point in self.points if point.error_us == 0)
        pure = _on_lines(sure, boot_us) if sure else mixed
        return pure if pure.bound_us <= mixed.bound_us else mixed

    @property
    def steady_us(self) -> int | None:
        """The offset if it is one for the whole boot."""
        first = self.points[0].offset_us
        return first if all(abs(point.offset_us - first) <= _SAME_US for point in self.points) else None


def _on_lines(points: tuple[OffsetSample, ...], boot_us: int) -> OffsetEstimate:
    index = bisect.bisect_left(points, boot_us, key=lambda point: point.boot_us)
    if 0 < index < len(points):
        return _between(points[index - 1], points[index], boot_us)
    point = points[min(index, len(points) - 1)]
    return OffsetEstimate(point.offset_us, point.bound_us(boot_us), point.error_us == 0)


def _between(left: OffsetSample, right: OffsetSample, boot_us: int) -> OffsetEstimate:
    slope = (right.offset_us - left.offset_us) / (right.boot_us - left.boot_us)
    offset = left.offset_us + round(slope * (boot_us - left.boot_us))
    # The true offset leaves neither point faster than by DRIFT, the line leaves it by its slope.
    bound = min(point.bound_us(boot_us, DRIFT + abs(slope)) for point in (left, right))
    return OffsetEstimate(offset, bound, left.error_us == 0 == right.error_us)


@dataclass(frozen=True, slots=True)
class Boot:
    """What is known of one boot, in its own clock: microseconds since boot, all but the offsets."""

    number: int  # boots of one outbox are numbered in their order
    boot_id: str
    begins_us: int  # all of the boots before had ended by then: 0, but in a machine the file moved to
    last_us: int  # the latest moment that is known of
    earliest_us: int  # the offset cannot be less: a release, or a trusted time, lies before this boot
    hint_us: int | None = None  # the offset of the wall clock as it last stood untrusted
    trusted: bool = False  # whether the last look was at a clock to trust
    points: tuple[OffsetSample, ...] = ()

    @property
    def is_sure(self) -> bool:
        """True once its clock was synchronised."""
        return any(point.error_us == 0 for point in self.points)

    def accepts(self, now: ClockReading) -> bool:
        """False for a clock that shows a time from before this boot, whoever vouches for it."""
        return now.trusted and now.offset_us >= self.earliest_us - STEP_US

    def after(self, now: ClockReading) -> Boot:
        """What is known after a look at the clocks. One that is older than another changes little."""
        is_news = now.boot_us >= self.last_us
        seen = dataclasses.replace(self, last_us=max(self.last_us, now.boot_us))
        if not self.accepts(now):
            return dataclasses.replace(seen, trusted=False, hint_us=now.offset_us) if is_news else seen
        if not is_news and self.is_sure:
            return seen
        return dataclasses.replace(seen, trusted=True, points=self._with_trusted(now))

    def _with_trusted(self, now: ClockReading) -> tuple[OffsetSample, ...]:
        """A clock that stepped was wrong before: points that no drift explains are struck out.

        So is what a server said, where this clock tells it better.
        """
        seen = OffsetSample(now.boot_us, now.offset_us)
        points = [
            other
            for other in self.points
            if _agree(other, seen) and (other.error_us or 0) <= seen.bound_us(other.boot_us)
        ]
        is_set = not points or abs(points[-1].offset_us - now.offset_us) > _SAME_US
        # It was right when it was last confirmed, and not necessarily since. If it was set, then after
        # the last look.
        known_us = self.last_us if is_set else points[-1].boot_us
        point = OffsetSample(min(max(known_us, now.boot_us - now.unconfirmed_us), now.boot_us), now.offset_us)
        if not is_set and point.boot_us == known_us and points[-1].error_us == 0:
            return tuple(points)
        if self.trusted and len(points) > 1 and _is_one_run(points[-2], points[-1], point):
            del points[-1]
        return _in_order(*points, point)

    def with_server_sample(self, point: OffsetSample) -> Boot:
        """What is known after a server told the time: less than a kernel's word, more than nothing."""
        if self.points:
            known = OffsetCurve(self.points).at(point.boot_us)
            agrees = all(_agree(other, point) for other in self.points)
            is_better = known.bound_us > 2 * point.bound_us(point.boot_us)
            if (agrees and not is_better) or (self.is_sure and not agrees):
                return self
        kept = tuple(other for other in self.points if _agree(other, point))
        return dataclasses.replace(self, points=_in_order(*kept, point))


def _in_order(*points: OffsetSample) -> tuple[OffsetSample, ...]:
    ordered = sorted(points, key=lambda point: point.boot_us)
    if len(ordered) > _POINTS_MAX:
        del ordered[1]
    return tuple(ordered)


def _agree(one: OffsetSample, other: OffsetSample) -> bool:
    """True when drift explains the difference."""
    allowed = one.bound_us(other.boot_us) + other.bound_us(other.boot_us) + STEP_US
    return abs(one.offset_us - other.offset_us) <= allowed


def _is_one_run(*points: OffsetSample) -> bool:
    """True where nobody set the clock: of such a run its two ends say all."""
    first = points[0].offset_us
    return all(point.error_us == 0 and abs(point.offset_us - first) <= _SAME_US for point in points)


# --- all boots together -----------------------------------------------------------------------


def timings(boots: Sequence[Boot]) -> dict[int, OffsetCurve]:
    """The timing of every boot, by its number; `boots` in their order.

    A boot whose clock was never right lies between what is known before it and after it. Its wall
    clock as it stood is taken if it fits there (a clock saved at shutdown mostly does); else boots
    share the time there is evenly. The error is the distance to the farther end, so that it holds.
    """
    highest = list(_highest(boots))
    found: dict[int, OffsetCurve] = {}
    low: float = -math.inf  # nothing after the boots so far can lie before that
    shown: float = -math.inf  # the latest time given out so far
    for index, boot in enumerate(boots):
        timing = OffsetCurve(boot.points or (_place(boot, low, shown, highest[index]),))
        end = timing.at(boot.last_us)
        shown = boot.last_us + end.offset_us
        low = shown - end.bound_us if boot.points else _lowest(boot, low) + boot.last_us * (1 - DRIFT)
        found[boot.number] = timing
    return found


def earliest_next_us(boots: Sequence[Boot]) -> float:
    """No boot after these can have begun before; -inf without boots."""
    low = -math.inf
    for boot in boots:
        if boot.points:
            end = OffsetCurve(boot.points).at(boot.last_us)
            low = boot.last_us + end.offset_us - end.bound_us
        else:
            low = _lowest(boot, low) + boot.last_us * (1 - DRIFT)
    return low


@dataclass(frozen=True, slots=True)
class _Ceiling:
    """A boot's offset is below `bound`, should be below `wanted`, and shares the room with `sharers`."""

    bound_us: float
    wanted_us: float
    sharers: int


def _highest(boots: Sequence[Boot]) -> Iterator[_Ceiling]:
    ceilings = []
    bound = wanted = math.inf
    sharers = 0
    for boot in reversed(boots):
        sharers += 1
        ceilings.append(_Ceiling(bound - boot.last_us * (1 - DRIFT), wanted - boot.last_us, sharers))
        bound, wanted = ceilings[-1].bound_us + boot.begins_us, ceilings[-1].wanted_us + boot.begins_us
        if boot.points:
            begin = OffsetCurve(boot.points).at(boot.begins_us)
            wanted = boot.begins_us + begin.offset_us
            bound = wanted + begin.bound_us
            sharers = 0
    return reversed(ceilings)


def _lowest(boot: Boot, low: float) -> float:
    return max(boot.earliest_us, low - boot.begins_us)


def _place(boot: Boot, low: float, shown: float, ceiling: _Ceiling) -> OffsetSample:
    # Where the two ends contradict each other, the later clock is believed.
    lowest = min(_lowest(boot, low), ceiling.bound_us)
    begin = min(max(lowest, shown - boot.begins_us), ceiling.bound_us)
    if boot.hint_us is not None and begin <= boot.hint_us <= ceiling.wanted_us:
        offset = boot.hint_us
    elif ceiling.wanted_us in (math.inf, -math.inf) or ceiling.wanted_us <= begin:
        offset = math.ceil(begin)
    else:
        offset = math.ceil(begin + (ceiling.wanted_us - begin) / (ceiling.sharers + 1))
    error = max(offset - lowest, ceiling.bound_us - offset, 1)
    return OffsetSample(0, offset, None if error == math.inf else math.ceil(error))
