"""The machine's clocks: boot id, boot-time clock, wall clock, and whether the wall clock is trusted."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path
from typing import Literal, Protocol

from agent.swipe import Instant

Trust = Literal["auto", "always"]

_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
# adjtimex(2): the return value TIME_ERROR says that the clock is not synchronised.
_TIME_ERROR = 5
# struct timex is 208 bytes on 64-bit and 128 on 32-bit Linux; the kernel fills what it knows.
_TIMEX_BYTES = 256


class Clock(Protocol):
    """What the rooms below ask of time."""

    def now(self) -> Instant:
        """This moment, as the machine's clocks stand."""


class SystemClock:
    """The clocks of this machine. `trust` = "always": the wall clock is right without a kernel's word."""

    def __init__(self, trust: Trust = "auto") -> None:
        self._trust = trust
        self._boot_id = _BOOT_ID_FILE.read_text().strip()

    def now(self) -> Instant:
        """This moment, as the machine's clocks stand."""
        return Instant(
            wall_us=time.time_ns() // 1_000,
            boot_id=self._boot_id,
            boot_ms=time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            trusted=self._trust == "always" or kernel_says_synchronised(),
        )


def kernel_says_synchronised() -> bool:
    """True when adjtimex(2) reports a synchronised clock; False also where it may not be asked."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)
    answer: int = _LIBC.adjtimex(buffer)
    return 0 <= answer < _TIME_ERROR


_LIBC = ctypes.CDLL(None, use_errno=True)
