"""Swipes, clock readings and a manual clock, for the tests of every folder."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.clock.reading import ClockReading
from agent.readers.events import raw_hex
from agent.swipe import CardCheck, CardRead, Swipe

BOOT_ID = "6f0c1d3e-5a7b-4c2d-9e8f-001122334455"
NOON_US = 1_772_366_400_000_000  # 2026-03-01T12:00:00Z


def instant(wall_us: int = NOON_US, *, boot_ms: int = 60_000, trusted: bool = True) -> ClockReading:
    return ClockReading(wall_us, BOOT_ID, boot_ms * 1_000, trusted)


def swipe(value: int = 1, *, read_at: ClockReading | None = None, reader_id: str = "RDR-101") -> Swipe:
    raw = raw_hex(40, value)
    return Swipe(
        reader_id=reader_id,
        zone_id="ZONE-LOBBY-1",
        direction="ENTRY",
        badge_id=f"40:{raw}",
        user_id="UNKNOWN",
        card=CardRead(40, raw, CardCheck.CHECKSUM),
        read_at=read_at or instant(),
    )


class DrivenClock:
    """All clocks of a machine, advanced by the test only; the wall clock may be wrong."""

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.wall_off_s = 0.0
        self.trusted = True

    def monotonic_s(self) -> float:
        return self.seconds

    def wall_s(self) -> float:
        return NOON_US / 1e6 + self.seconds + self.wall_off_s

    def now(self) -> ClockReading:
        boot_us = int(self.seconds * 1e6)
        return ClockReading(NOON_US + boot_us + int(self.wall_off_s * 1e6), BOOT_ID, boot_us, self.trusted)

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


# A hang, even on a machine under load. No test depends on its length.
_HANGS_S = 60.0


def wait_until(holds: Callable[[], bool], *, what: str, timeout_s: float = _HANGS_S) -> None:
    """Return as soon as `holds()` is true; fail with `what` after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.005)


def in_threads(*bodies: Callable[[], object]) -> None:
    """Run all bodies concurrently; returns when all have ended."""
    threads = [threading.Thread(target=body) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
