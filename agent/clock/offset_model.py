"""The offset of each boot's wall clock, estimated from observations: converts boot time to UTC.

Theory of operation

A moment is recorded by two clocks: the wall clock, which may be wrong, and the boot-time clock, which
counts from zero and is never set. On Linux both run at one rate, including NTP's slewing. So the

    offset = wall time - boot time

of one boot is constant except where something steps the wall clock, and one observation of a correct
wall clock dates every earlier moment of the same boot. What remains is drift: without a time server
both clocks drift together, and the next correction shows by how much.

    OffsetSample    at one boot time: an offset and its maximum error, by this machine's clock while it
                    was synchronised ("sure"), or by a server's
    OffsetCurve     samples of one boot joined by straight lines, constant outside them
    OffsetEstimate  the curve at one moment: offset, bound of its error, and whether only synchronised
                    clocks contributed ("sure", sent as `corrected`; else `estimated`)
    Boot            what is known of one boot; an immutable value, replaced by after()

States of a boot

    UNKNOWN --server sample--> ESTIMATED --trusted reading--> SURE
       (no points)               (points of a server)        (a point of its own; never lost)

`trusted` is separate: whether the latest reading was trusted. It may become false again, and then the
curve is held by its points while the error grows by DRIFT.

Rules
- A trusted reading is off by at most what the kernel states, or else by the drift since the earliest moment
  at which it can have been corrected last. It becomes a point if it shows another offset, or if the clock was
  corrected since the last point.
- Points that drift cannot explain are removed then, because a clock that stepped was wrong before; so are
  points about which the new one says more.
- A server sample is added only where it improves the bound, and never against a synchronised clock that it
  contradicts. What the boots before and after leave free limits it (timings()).
- A change of the clock is accepted only with a newer correction by the time service: the kernel's status,
  which a clock set by hand clears, as timedated reports it, too; or a mark that was made while this process
  observed the clock.
- A reading earlier than `earliest_us` is not accepted, although the kernel calls it synchronised: the
  release date of this program and the end of the boot before are lower bounds.
- A boot without points lies between its neighbours: its untrusted clock is used where it fits, else the
  free interval is shared evenly; its bound covers the whole interval (timings()).

Invariants
- points are ordered by boot time, at most _POINTS_MAX, and agree pairwise within their bounds.
- bound_us is an upper limit, not a likely error: the true offset lies within it if clocks drift no
  faster than DRIFT.
- Everything here is pure: values in, values out. BootHistory alone keeps and replaces the boots, and the
  outbox stores them.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.clock.reading import ClockReading

# The largest frequency error of a working clock: the kernel's own tolerance (adjtimex(2)).
DRIFT = 500 / 1_000_000
# A change of the offset by more than this is a step: the clock was set, not corrected.
STEP_US = 1_000_000
# Offsets that differ by less are equal: the noise of reading two clocks.
_SAME_US = 1_000
# Two processes of one boot that read the clocks on a busy machine: a larger difference means that it was set.
_SAME_IN_TWO_PROCESSES_US = 100_000
# A time service that reaches its server corrects the clock, and makes a mark, at least every 2,048 s
# (timesyncd.conf(5), PollIntervalMaxSec=), and its query may be repeated. With a larger error by its mark the
# clock was not corrected in time.
_RECENT_ERROR_US = int(1.1 * 2_048_000_000 * DRIFT)
# The kernel adds to its maximum error once a second.
_ERROR_STEP_US = 500
# Each loss of the time server adds two points. Above this number one is dropped, the oldest of a server's or
# else the oldest but one: rows around it are interpolated over a longer time.
_POINTS_MAX = 64


@dataclass(frozen=True, slots=True)
class OffsetSample:
    """At `boot_us` since boot the true time was boot_us + offset_us, within `error_us`.

    None: the error has no known limit. `sure`: by this machine's clock while it was synchronised.
    """

    boot_us: int
    offset_us: int
    error_us: int | None
    sure: bool = False

    def bound_us(self, boot_us: int) -> float:
        """The maximum error of this offset at another moment of the same boot, in microseconds."""
        return math.inf if self.error_us is None else self.error_us + DRIFT * abs(boot_us - self.boot_us)

    def says_more_than(self, other: OffsetSample) -> bool:
        """True if this sample has a smaller error at the moment of the other one than that has itself."""
        return self.bound_us(other.boot_us) < other.bound_us(other.boot_us)


@dataclass(frozen=True, slots=True)
class OffsetEstimate:
    """The offset at one moment and its maximum error; `sure` if only synchronised clocks contributed."""

    offset_us: int
    bound_us: float
    sure: bool


@dataclass(frozen=True, slots=True)
class OffsetCurve:
    """The offset over a whole boot: straight lines between ordered points, constant outside."""

    points: tuple[OffsetSample, ...]

    def at(self, boot_us: int) -> OffsetEstimate:
        """The offset at a moment, with the smaller bound of two estimates.

        One uses all points, the other only those of synchronised clocks.
        """
        mixed = self._estimate(self.points, boot_us)
        sure = () if mixed.sure else tuple(point for point in self.points if point.sure)
        pure = self._estimate(sure, boot_us) if sure else mixed
        return pure if pure.bound_us <= mixed.bound_us else mixed

    def _estimate(self, used: tuple[OffsetSample, ...], boot_us: int) -> OffsetEstimate:
        """The offset on the lines through these points; every point of the curve limits its error."""
        offset_us, sure = _on_lines(used, boot_us)
        bounds = (point.bound_us(boot_us) + abs(point.offset_us - offset_us) for point in self.points)
        return OffsetEstimate(offset_us, min(bounds), sure)

    @property
    def steady_us(self) -> int | None:
        """The offset if it is constant over the whole boot, else None."""
        first = self.points[0].offset_us
        return first if all(abs(point.offset_us - first) <= _SAME_US for point in self.points) else None


def _on_lines(points: tuple[OffsetSample, ...], boot_us: int) -> tuple[int, bool]:
    """The offset on the lines, and whether it is a synchronised clock's."""
    index = bisect.bisect_left(points, boot_us, key=lambda point: point.boot_us)
    if not 0 < index < len(points):
        point = points[min(index, len(points) - 1)]
        return point.offset_us, point.sure
    left, right = points[index - 1], points[index]
    slope = (right.offset_us - left.offset_us) / (right.boot_us - left.boot_us)
    return left.offset_us + round(slope * (boot_us - left.boot_us)), left.sure and right.sure


@dataclass(frozen=True, slots=True)
class Boot:
    """What is known of one boot. Moments are microseconds since boot; offsets are microseconds."""

    number: int  # boots of one outbox are numbered in their order
    boot_id: str
    begins_us: int  # every earlier boot had ended by then: 0, except after the file moved to another machine
    last_us: int  # the latest moment observed
    earliest_us: int  # a lower bound of the offset: the release date, or the end of the boot before
    untrusted_offset_us: int | None = None  # offset of the latest untrusted reading
    trusted: bool = False  # whether the latest reading was trusted
    points: tuple[OffsetSample, ...] = ()

    @property
    def sure_points(self) -> tuple[OffsetSample, ...]:
        """The points of its own synchronised clock; the others are of a server's."""
        return tuple(point for point in self.points if point.sure)

    @property
    def is_sure(self) -> bool:
        """True once its clock was synchronised."""
        return bool(self.sure_points)

    def accepts(self, now: ClockReading) -> bool:
        """True for a trusted reading that is not earlier than this boot can have begun.

        A change that is confirmed only by a mark from before the process is not accepted: the clock may
        have been set by hand since. Without an earlier synchronised reading the mark must be recent.
        """
        if not now.trusted or now.offset_us < self.earliest_us - STEP_US:
            return False
        if not now.is_inherited:
            return True
        if not (sure := self.sure_points):
            return now.max_error_us <= _RECENT_ERROR_US
        return abs(sure[-1].offset_us - now.offset_us) <= _SAME_IN_TWO_PROCESSES_US

    def after(self, now: ClockReading) -> Boot:
        """The boot after one more reading. An untrusted reading older than the latest one changes nothing."""
        is_news = now.boot_us >= self.last_us
        seen = dataclasses.replace(self, last_us=max(self.last_us, now.boot_us))
        if not self.accepts(now):
            return (
                dataclasses.replace(seen, trusted=False, untrusted_offset_us=now.offset_us)
                if is_news
                else seen
            )
        if not is_news and self.is_sure:
            return seen
        return dataclasses.replace(seen, trusted=True, points=self._with_trusted(now))

    def _with_trusted(self, now: ClockReading) -> tuple[OffsetSample, ...]:
        """The points with this reading added, if it says more than the latest of this clock."""
        point = OffsetSample(now.boot_us, now.offset_us, now.max_error_us, sure=True)
        agreeing = [other for other in self.points if _agree(other, point)]
        sure = [other for other in agreeing if other.sure]
        if sure and abs(sure[-1].offset_us - now.offset_us) <= _SAME_US:
            if now.max_error_us + _ERROR_STEP_US >= sure[-1].bound_us(now.boot_us):
                return _in_order(*agreeing)  # not corrected since
            if self.trusted and len(sure) > 1 and _is_one_run(sure[-2], sure[-1], point):
                agreeing.remove(sure[-1])
        known = [other for other in agreeing if not point.says_more_than(other)]
        return _in_order(*known, point)

    def with_server_sample(self, point: OffsetSample) -> Boot:
        """The boot after a server sample, which counts less than a synchronised kernel."""
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
        between = range(1, _POINTS_MAX)
        del ordered[next((index for index in between if not ordered[index].sure), 1)]
    return tuple(ordered)


def _agree(one: OffsetSample, other: OffsetSample) -> bool:
    """True when drift explains the difference.

    Of two readings of this machine's clock the errors do not count: what set the clock knew better.
    """
    drift_us = 2 * DRIFT * abs(one.boot_us - other.boot_us)
    errors_us = 0 if one.sure and other.sure else one.bound_us(one.boot_us) + other.bound_us(other.boot_us)
    return abs(one.offset_us - other.offset_us) <= errors_us + drift_us + STEP_US


def _is_one_run(*points: OffsetSample) -> bool:
    """True if the offset did not change: then the first and last point describe the run."""
    first = points[0].offset_us
    return all(point.sure and abs(point.offset_us - first) <= _SAME_US for point in points)


# --- all boots together -----------------------------------------------------------------------


def timings(boots: Sequence[Boot]) -> dict[int, OffsetCurve]:
    """The offset curve of every boot, by its number; `boots` in their order.

    A boot without points lies between its neighbours. The offset of its untrusted clock is used if
    it fits there (a clock saved at shutdown usually does); else such boots share the interval evenly.
    The error is the distance to the farther end of the interval. What a server's clock showed is limited
    to that interval, too: a slow answer is worth less than the end of the boot before.
    """
    highest = list(_highest(boots))
    found: dict[int, OffsetCurve] = {}
    low: float = -math.inf  # lower bound of the boots that follow
    shown: float = -math.inf  # the latest time assigned so far
    for index, boot in enumerate(boots):
        limits = _Limits(_lowest(boot, low), shown - boot.begins_us, highest[index])
        points = [limits.applied(point) for point in boot.points] or [_place(boot, limits)]
        timing = OffsetCurve(tuple(points))
        end = timing.at(boot.last_us)
        shown = boot.last_us + end.offset_us
        low = shown - end.bound_us if boot.points else limits.lowest_us + boot.last_us * (1 - DRIFT)
        found[boot.number] = timing
    return found


def earliest_next_us(boots: Sequence[Boot]) -> float:
    """The earliest time at which a boot after these can begin; -inf without boots."""
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
    """Upper limits of a boot's offset: certain, and preferred; `sharers` boots share the interval."""

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
            own = boot.begins_us + begin.offset_us
            wanted = own if begin.sure else min(own, bound)  # as _Limits.applied() places it
            bound = own + begin.bound_us if begin.sure else min(bound, own + begin.bound_us)
            sharers = 0
    return reversed(ceilings)


@dataclass(frozen=True, slots=True)
class _Limits:
    """What its neighbours say of a boot's offset: a lower bound, a preferred one, and the upper ones."""

    lowest_us: float
    shown_us: float
    ceiling: _Ceiling

    def applied(self, point: OffsetSample) -> OffsetSample:
        """The point within the limits; as it is if a synchronised clock made it, or if they contradict it."""
        if point.sure:
            return point
        error_us = math.inf if point.error_us is None else point.error_us
        drift_us = DRIFT * point.boot_us
        least_us = max(point.offset_us - error_us, self.lowest_us - drift_us)
        most_us = min(point.offset_us + error_us, self.ceiling.bound_us + drift_us)
        if least_us > most_us:
            return point
        offset_us = round(min(max(point.offset_us, least_us, self.shown_us), most_us))
        error_us = max(offset_us - least_us, most_us - offset_us, 1)
        return OffsetSample(point.boot_us, offset_us, None if error_us == math.inf else math.ceil(error_us))


def _lowest(boot: Boot, low: float) -> float:
    return max(boot.earliest_us, low - boot.begins_us)


def _place(boot: Boot, limits: _Limits) -> OffsetSample:
    # Where the two ends contradict each other, the later clock is used.
    ceiling = limits.ceiling
    lowest = min(limits.lowest_us, ceiling.bound_us)
    begin = min(max(lowest, limits.shown_us), ceiling.bound_us)
    if boot.untrusted_offset_us is not None and begin <= boot.untrusted_offset_us <= ceiling.wanted_us:
        offset = boot.untrusted_offset_us
    elif ceiling.wanted_us in (math.inf, -math.inf) or ceiling.wanted_us <= begin:
        offset = math.ceil(begin)
    else:
        offset = math.ceil(begin + (ceiling.wanted_us - begin) / (ceiling.sharers + 1))
    error = max(offset - lowest, ceiling.bound_us - offset, 1)
    return OffsetSample(0, offset, None if error == math.inf else math.ceil(error))
