"""Clock observations per boot, kept in memory and stored by the outbox when they change materially."""

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

# The length of a boot bounds the times of the next one: it is stored at this interval, every other
# material change immediately.
_SAVED_EVERY_US = 3_600_000_000
# Observations at a shorter distance with an equal offset are ignored.
_OBSERVED_EVERY_US = 1_000_000
_SAME_US = 1_000


@dataclass(frozen=True, slots=True)
class ClockState:
    """The clock in this boot, for `status`; moments are on the boot-time clock."""

    trusted: bool
    since_us: int | None  # start of this state; None: never trusted in this boot
    correction_us: int | None  # what is added to times recorded before the clock was correct


class BootHistory:
    """The boots of one outbox file, for several threads.

    Kept in memory, because only one agent changes them.
    """

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._moved = False
        self.load([])

    def load(self, boots: list[Boot], last_number: int = 0) -> None:
        """Replace everything by what is stored; numbers continue after `last_number`."""
        with self._guard:
            self._last_number = max([last_number, *(boot.number for boot in boots)])
            self._boots = {boot.number: boot for boot in boots}
            self._number_of = {boot.boot_id: boot.number for boot in boots}
            self._saved = dict(self._boots)
            self._timings: Mapping[int, OffsetCurve] | None = None
            self.has_news = False  # a material change is not stored yet

    def mark_relocated(self) -> None:
        """Record that the file is on another machine, which may have booted before the stored boots ended."""
        self._moved = True

    # --- observations ---------------------------------------------------------------------------

    def observe(self, now: ClockReading, server: OffsetSample | None = None) -> tuple[int, ClockReading]:
        """Add a reading of the clocks, and a sample of a server's clock.

        Returns the boot's number, and the reading, untrusted if it is earlier than times that this
        outbox has already seen.
        """
        with self._guard:
            number = self._number_of.get(now.boot_id)
            before = self._begin(now) if number is None else self._boots[number]
            if server is None and _is_repetition(before, now):
                return before.number, now
            boot = _with_bound_refuted(before, now, server)
            after = boot.after(now)
            if server is not None:
                after = after.with_server_sample(server)
            self._boots[before.number] = after
            self.has_news = self.has_news or _is_news(self._saved.get(before.number), after)
            if after.points != before.points or after.untrusted_offset_us != before.untrusted_offset_us:
                self._timings = None
            if now.boot_us >= before.last_us:
                _log_change(before, after, now)
            is_accepted = boot.accepts(now)
        return before.number, now if is_accepted == now.trusted else dataclasses.replace(now, trusted=False)

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

    # --- estimates -----------------------------------------------------------------------------

    def screened(self, now: ClockReading) -> ClockReading:
        """The reading, untrusted if it is earlier than times that this outbox has already seen."""
        boot = self._boots.get(self.number_of(now.boot_id) or 0)
        if boot is None or boot.accepts(now) == now.trusted:
            return now
        return dataclasses.replace(now, trusted=False)

    def number_of(self, boot_id: str) -> int | None:
        """The number of a boot, or None if it is unknown."""
        return self._number_of.get(boot_id)

    def id_of(self, number: int) -> str:
        """The boot id of a number. Raises KeyError if it is unknown."""
        return self._boots[number].boot_id

    def timings(self) -> Mapping[int, OffsetCurve]:
        """The offset curve of every boot as estimated now, by number."""
        with self._guard:
            if self._timings is None:
                self._timings = timings(self._in_order())
            return self._timings

    @property
    def settled(self) -> int:
        """The newest boot whose clock was synchronised: estimates up to it do not change; -1 if none."""
        with self._guard:
            return max((number for number, boot in self._boots.items() if boot.is_sure), default=-1)

    def state(self, now: ClockReading) -> ClockState:
        """The state of the clock in the boot of this reading."""
        boot = self._boots.get(self.number_of(now.boot_id) or 0)
        if boot is None:
            return ClockState(now.trusted, None, None)
        sure = boot.sure_points
        moved = (
            sure[0].offset_us - boot.untrusted_offset_us
            if sure and boot.untrusted_offset_us is not None
            else None
        )
        if not boot.accepts(now):
            return ClockState(trusted=False, since_us=sure[-1].boot_us if sure else None, correction_us=moved)
        first = len(sure) - 1
        while first > 0 and abs(sure[first - 1].offset_us - sure[-1].offset_us) <= _SAME_US:
            first -= 1
        return ClockState(trusted=True, since_us=sure[first].boot_us if sure else None, correction_us=moved)

    # --- storing -------------------------------------------------------------------------------

    def unsaved(self) -> dict[int, Boot]:
        """The boots that differ from what is stored; pass them to saved() after the commit."""
        with self._guard:
            return {number: boot for number, boot in self._boots.items() if boot != self._saved.get(number)}

    def saved(self, written: dict[int, Boot]) -> None:
        """These boots, which unsaved() returned, are stored."""
        with self._guard:
            self._saved = self._saved | written
            self.has_news = any(
                _is_news(self._saved.get(number), boot) for number, boot in self._boots.items()
            )


def _is_repetition(boot: Boot, now: ClockReading) -> bool:
    if now.boot_us - boot.last_us > _OBSERVED_EVERY_US or now.trusted != boot.trusted:
        return False
    before_us = boot.sure_points[-1].offset_us if now.trusted and boot.is_sure else boot.untrusted_offset_us
    return (
        before_us is not None
        and abs(before_us - now.offset_us) <= _SAME_US
        and boot.accepts(now) == now.trusted
    )


def _with_bound_refuted(boot: Boot, now: ClockReading, server: OffsetSample | None) -> Boot:
    """The boot without its lower bound, if a server's clock agrees with a reading below the bound."""
    if not now.trusted or now.offset_us >= boot.earliest_us - STEP_US:
        return boot
    servers = [point for point in (server, *boot.points) if point is not None and not point.sure]
    if not any(abs(p.offset_us - now.offset_us) <= p.bound_us(now.boot_us) + STEP_US for p in servers):
        return boot
    _log.warning("clock: it was ahead in an earlier boot; Snowflake shows the same time as it does now")
    return dataclasses.replace(boot, earliest_us=now.offset_us)


def _log_change(before: Boot, after: Boot, now: ClockReading) -> None:
    """Log a change of the clock's state, once."""
    if after.trusted and not before.trusted:
        moved_us = now.offset_us - before.untrusted_offset_us if before.untrusted_offset_us is not None else 0
        _log.info(
            "clock: synchronised%s", f"; it was {off(-moved_us / 1e6)}" if abs(moved_us) > STEP_US else ""
        )
    elif before.trusted and not after.trusted:
        _log.warning("clock: no longer synchronised; swipes are kept and their times corrected later")
    elif after.trusted and before.is_sure:
        stepped_us = now.offset_us - before.sure_points[-1].offset_us
        if abs(stepped_us) > STEP_US:
            _log.warning("clock: was set while it counted as synchronised; it was %s", off(-stepped_us / 1e6))


def _is_news(saved: Boot | None, boot: Boot) -> bool:
    if saved is None or (saved.trusted, saved.earliest_us) != (boot.trusted, boot.earliest_us):
        return True
    if boot.last_us - saved.last_us >= _SAVED_EVERY_US or saved.points[:1] != boot.points[:1]:
        return True
    if (saved.untrusted_offset_us is None) != (boot.untrusted_offset_us is None):
        return True
    hint_moved = abs((saved.untrusted_offset_us or 0) - (boot.untrusted_offset_us or 0)) > STEP_US
    if not boot.points:
        return hint_moved
    last = boot.points[-1]
    known = OffsetCurve(saved.points).at(last.boot_us)
    now = OffsetCurve(boot.points).at(last.boot_us)
    is_worse = known.bound_us > now.bound_us + 2 * STEP_US
    return hint_moved or abs(known.offset_us - last.offset_us) > _SAME_US or is_worse
