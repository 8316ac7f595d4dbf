"""A reading of the machine's two clocks, and whether the wall clock was trusted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClockReading:
    """A reading of both clocks at one moment: `wall_us` microseconds since 1970 UTC, `boot_us`
    microseconds since boot (CLOCK_BOOTTIME, so suspend counts); `trusted` is whether the wall
    clock was synchronised, `max_error_us` how far off it is at most then.
    `is_inherited`: trusted by a mark from before this process; it may have been set by hand since.
    """

    wall_us: int
    boot_id: str
    boot_us: int
    trusted: bool
    max_error_us: int = 0
    is_inherited: bool = False

    @property
    def boot_ms(self) -> int:
        """Whole milliseconds since boot, as in the row."""
        return self.boot_us // 1_000

    @property
    def offset_us(self) -> int:
        """Wall clock minus boot-time clock, in microseconds."""
        return self.wall_us - self.boot_us
