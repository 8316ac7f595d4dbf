"""Judges readings of the wall clock by the marks of a time service, without the kernel's status.

A mark is a moment of the wall clock at which the time service corrected it. The kernel clears its own
status when the clock is set by hand (settimeofday(2) sets STA_UNSYNC); a mark stays. But the offset of
the wall clock over the boot-time clock changes only where the wall clock is set. So a reading counts as
confirmed while its offset is the one that was observed with the mark.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# The kernel lets maxerror grow by 500 us a second (MAXFREQ) from what it was at the last correction, up to
# NTP_PHASE_LIMIT; from there on the clock counts as not synchronised.
GROWTH = 500 / 1_000_000
LARGEST_ERROR_US = 16_000_000
_LONGEST_UNCONFIRMED_US = int(LARGEST_ERROR_US / GROWTH)
# Offsets that differ by less are equal: two readings on a busy machine, and the kernel's coarse file times.
_SAME_US = 100_000


@dataclass(frozen=True, slots=True)
class Confirmation:
    """The wall clock was correct once, has not been set since, and is off by at most `max_error_us` now.

    `is_inherited`: the mark is older than this process, which cannot exclude that it was set in between.
    """

    max_error_us: int
    is_inherited: bool = False


@dataclass(frozen=True, slots=True)
class _Observed:
    """A mark, the offset that was observed with it, and the boot time at which it was made."""

    mark_us: int
    offset_us: int
    boot_us: int
    is_inherited: bool


class SyncMarks:
    """The newest mark, and the offset that it confirms. For one thread at a time."""

    def __init__(self) -> None:
        self._observed: _Observed | None = None
        self._looked_us: int | None = None  # boot time of the latest reading
        self._inherited_mark_us: int | None = None  # the mark of the first reading: from before this process

    def judge(self, mark_us: int | None, wall_us: int, boot_us: int) -> Confirmation | None:
        """What confirms a reading, by the newest mark; None for a reading that is not to be trusted."""
        looked_us, self._looked_us = self._looked_us, boot_us
        if looked_us is None:
            self._inherited_mark_us = mark_us
        if mark_us is None:
            return None
        if self._observed is None or mark_us != self._observed.mark_us:
            made_after_us = None if mark_us == self._inherited_mark_us else looked_us
            self._observed = _observe(mark_us, wall_us, boot_us, made_after_us) or self._observed
        observed = self._observed
        if observed is None or mark_us != observed.mark_us:
            return None
        unconfirmed_us = boot_us - observed.boot_us
        if abs(wall_us - boot_us - observed.offset_us) > _SAME_US or unconfirmed_us > _LONGEST_UNCONFIRMED_US:
            return None
        return Confirmation(math.ceil(max(0, unconfirmed_us) * GROWTH), observed.is_inherited)


def _observe(mark_us: int, wall_us: int, boot_us: int, made_after_us: int | None) -> _Observed | None:
    """A new mark; None if the wall clock was set after it, so that its distance is impossible.

    `made_after_us`: the boot time of a reading without this mark; None for one from before the process.
    """
    ago_us = wall_us - mark_us
    is_inherited = made_after_us is None
    longest_us = _LONGEST_UNCONFIRMED_US if made_after_us is None else boot_us - made_after_us + _SAME_US
    if not -_SAME_US <= ago_us <= longest_us:
        return None
    return _Observed(mark_us, wall_us - boot_us, boot_us - max(0, ago_us), is_inherited)
