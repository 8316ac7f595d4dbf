"""A reading of the machine's two clocks, and whether the wall clock could be trusted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClockReading:
    """A moment as the machine's clocks stood: `wall_us` microseconds since 1970 UTC, `boot_us`
    microseconds since boot (CLOCK_BOOTTIME, so suspend counts); `trusted` says whether the wall
    clock was right, `unconfirmed_us` for how long at most nothing has confirmed that.
    """

    wall_us: int
    boot_id: str
    boot_us: int
    trusted: bool
    unconfirmed_us: int = 0

    @property
    def boot_ms(self) -> int:
        """Whole milliseconds since boot: what the row publishes."""
        return self.boot_us // 1_000

    @property
    def offset_us(self) -> int:
        """What the wall clock showed at the moment of the boot, as it stood now."""
        return self.wall_us - self.boot_us
