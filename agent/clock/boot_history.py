"""What the outbox knows of the clock in each boot: learned from every look at it, written down when news."""

from __future__ import annotations

import dataclasses
import logging
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from agent.clock.offset_model import STEP_US, Boot, OffsetCurve, OffsetSample, earliest_next_us, timings
from agent.clock.reading import ClockReading
from agent.clock.system_clock import RELEASED_US, off

_log = logging.getLogger(__name__)

# How long a boot lasted, and how long its clock was right, bounds the times of the next one: that is
# written down so often; all else that is news, at once.
_SAVED_EVERY_US = 3_600_000_000
# Looks that follow each other faster and show the same teach nothing.
_LOOKS_EVERY_US = 1_000_000
_SAME_US = 1_000


@dataclass(frozen=True, slots=True)
class ClockState:
    """What `status` shows of the clock in this boot; moments of the boot-time clock."""

    trusted: bool
    since_us: int | None  # since when it is trusted, or since when no more; None: never in this boot
    correction_us: int | None  # by how much the times from before it was right are moved


class BootHistory:
    """The boots of one outbox file, kept in memory because one agent alone changes them.

    For several threads: readers and the uploader look at the clock, the uploader sends.
    """

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._moved = False
        self.load([])

    def load(self, boots: list[Boot], last_number: int = 0) -> None:
        """Begin with what the file says; `last_number` was given out, whether or not its boot is known."""
        with self._guard:
            self._last_number = max([last_number, *(boot.number for boot in boots)])
            self._boots = {boot.number: boot for boot in boots}
            self._number_of = {boot.boot_id: boot.number for boot in boots}
            self._saved = dict(self._boots)
            self._timings: Mapping[int, OffsetCurve] | None = None
            self.has_news = False  # more is known than is written down, and not the passing of time alone

    def mark_relocated(self) -> None:
        """The file woke up on another machine, which may have run for long before it came."""
        self._moved = True

    # --- looks at the clock ---------------------------------------------------------------------

    def observe(self, now: ClockReading, server: OffsetSample | None = None) -> tuple[int, ClockReading]:
        """Learn from the clocks as they stand, and from what the server's clock said.

        Returns the boot's number, and the same moment, trusted only if nothing speaks against it:
        a time from before what this outbox has seen cannot be right.
        """
        with self._guard:
            number = self._number_of.get(now.boot_id)
            before = self._begin(now) if number is None else self._boots[number]
            if server is None and _teaches_nothing(before, now):
                return before.number, now
            boot = _vouched_for(before, now, server)
            after = boot.after(now)
            if server is not None:
                after = after.with_server_sample(server)
            self._boots[before.number] = after
            self.has_news = self.has_news or _is_news(self._saved.get(before.number), after)
            if after.points != before.points or after.hint_us != before.hint_us:
                self._timings = None
            if now.boot_us >= before.last_us:
                _tell(before, after, now)
            believed = boot.accepts(now)
        return before.number, now if believed == now.trusted else dataclasses.replace(now, trusted=False)

    def _begin(self, now: ClockReading) -> Boot:
        number = self._last_number = self._last_number + 1
        begins_us = now.boot_us if self._moved and self._boots else 0
        self._moved = False
        earliest = max(earliest_next_us(self._in_order()) - begins_us, RELEASED_US - now.boot_us)
        boot = Boot(number, now.boot_id, begins_us, now.boot_us, math.floor(earliest))
        self._boots[number] = boot
        self._number_of[now.boot_id] = number
        self._timings = None
        return boot

    def _in_order(self) -> list[Boot]:
        return [boot for _, boot in sorted(self._boots.items())]

    # --- what is known --------------------------------------------------------------------------

    def screened(self, now: ClockReading) -> ClockReading:
        """The same moment, not trusted if it shows a time from before what this outbox has seen."""
        boot = self._boots.get(self.number_of(now.boot_id) or 0)
        if boot is None or boot.accepts(now) == now.trusted:
            return now
        return dataclasses.replace(now, trusted=False)

    def number_of(self, boot_id: str) -> int | None:
        """The number of a boot that is known."""
        return self._number_of.get(boot_id)

    def id_of(self, number: int) -> str:
        """Its boot id."""
        return self._boots[number].boot_id

    def timings(self) -> Mapping[int, OffsetCurve]:
        """The timing of every boot, as well as it is known now."""
        with self._guard:
            if self._timings is None:
                self._timings = timings(self._in_order())
            return self._timings

    @property
    def settled(self) -> int:
        """Up to this number no boot will ever be known better: the clock was right in it or after it."""
        with self._guard:
            return max((number for number, boot in self._boots.items() if boot.is_sure), default=-1)

    def state(self, now: ClockReading) -> ClockState:
        """What is known of the clock in the boot of this moment."""
        boot = self._boots.get(self.number_of(now.boot_id) or 0)
        if boot is None:
            return ClockState(now.trusted, None, None)
        sure = [point for point in boot.points if point.error_us == 0]
        moved = sure[0].offset_us - boot.hint_us if sure and boot.hint_us is not None else None
        if not boot.accepts(now):
            return ClockState(trusted=False, since_us=sure[-1].boot_us if sure else None, correction_us=moved)
        first = len(sure) - 1
        while first > 0 and abs(sure[first - 1].offset_us - sure[-1].offset_us) <= _SAME_US:
            first -= 1
        return ClockState(trusted=True, since_us=sure[first].boot_us if sure else None, correction_us=moved)

    # --- writing it down ------------------------------------------------------------------------

    def unsaved(self) -> dict[int, Boot]:
        """The boots that differ from what was saved; the caller passes them to saved() once they are."""
        with self._guard:
            return {number: boot for number, boot in self._boots.items() if boot != self._saved.get(number)}

    def saved(self, written: dict[int, Boot]) -> None:
        """What unsaved() returned is committed."""
        with self._guard:
            self._saved = self._saved | written
            self.has_news = any(
                _is_news(self._saved.get(number), boot) for number, boot in self._boots.items()
            )


def _teaches_nothing(boot: Boot, now: ClockReading) -> bool:
    if now.boot_us - boot.last_us > _LOOKS_EVERY_US or now.trusted != boot.trusted:
        return False
    before_us = boot.points[-1].offset_us if now.trusted and boot.points else boot.hint_us
    return (
        before_us is not None
        and abs(before_us - now.offset_us) <= _SAME_US
        and boot.accepts(now) == now.trusted
    )


def _vouched_for(boot: Boot, now: ClockReading, server: OffsetSample | None) -> Boot:
    """A server that shows the same time refutes what this clock seemed too early for."""
    if not now.trusted or boot.accepts(now):
        return boot
    told = [point for point in (server, *boot.points) if point is not None and point.error_us]
    if not any(abs(p.offset_us - now.offset_us) <= p.bound_us(now.boot_us) + STEP_US for p in told):
        return boot
    _log.warning("clock: it was ahead in an earlier boot; Snowflake shows the same time as it does now")
    return dataclasses.replace(boot, earliest_us=now.offset_us)


def _tell(before: Boot, after: Boot, now: ClockReading) -> None:
    """Say what has become of the clock, once."""
    if after.trusted and not before.trusted:
        moved_us = now.offset_us - before.hint_us if before.hint_us is not None else 0
        _log.info(
            "clock: synchronised%s", f"; it was {off(-moved_us / 1e6)}" if abs(moved_us) > STEP_US else ""
        )
    elif before.trusted and not after.trusted:
        _log.warning("clock: no longer synchronised; swipes are kept and their times corrected later")
    elif after.trusted and before.points:
        stepped_us = now.offset_us - before.points[-1].offset_us
        if abs(stepped_us) > STEP_US:
            _log.warning("clock: was set while it counted as synchronised; it was %s", off(-stepped_us / 1e6))


def _is_news(saved: Boot | None, boot: Boot) -> bool:
    if saved is None or (saved.trusted, saved.earliest_us) != (boot.trusted, boot.earliest_us):
        return True
    if boot.last_us - saved.last_us >= _SAVED_EVERY_US or saved.points[:1] != boot.points[:1]:
        return True
    if (saved.hint_us is None) != (boot.hint_us is None):
        return True
    hint_moved = abs((saved.hint_us or 0) - (boot.hint_us or 0)) > STEP_US
    if not boot.points:
        return hint_moved
    last = boot.points[-1]
    known = OffsetCurve(saved.points).at(last.boot_us)
    return hint_moved or abs(known.offset_us - last.offset_us) > _SAME_US or known.bound_us > 2 * STEP_US
