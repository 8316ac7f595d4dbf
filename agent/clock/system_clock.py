"""The machine's clocks: boot id, boot-time clock, wall clock, and whether the wall clock is trusted."""

from __future__ import annotations

import ctypes
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from agent import RELEASED
from agent.clock.reading import ClockReading
from agent.clock.sync_marks import Confirmation, SyncMarks
from agent.clock.timedated import Timedated
from agent.settings import Trust

# Snowflake refuses a token that it receives more than a minute after its issue time: from this difference to
# the server's clock on, this machine's is reported.
TOLERATED_S = 60.0

RELEASED_US = int(datetime.fromisoformat(RELEASED).replace(tzinfo=UTC).timestamp()) * 1_000_000

_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
# systemd-timesyncd touches the file at each correction (systemd-timesyncd.service(8)) and never removes it
# while it runs, so its modification time counts, not its existence. chrony sets the kernel's status only, and
# only with `rtcsync`, which Debian configures.
_TIMESYNCD_FILE = Path("/run/systemd/timesync/synchronized")
# adjtimex(2): the return value TIME_ERROR says that the clock is not synchronised.
_TIME_ERROR = 5
# A pair of readings that the scheduler interrupted for longer than this is repeated.
_TORN_US = 50
_READINGS = 10


class Clock(Protocol):
    """A source of clock readings."""

    def now(self) -> ClockReading:
        """A reading of the clocks now."""


@dataclass(frozen=True, slots=True)
class KernelTime:
    """adjtimex(2): is the wall clock synchronised, and how far off it may be by now."""

    synchronised: bool
    max_error_us: int


class SystemClock:
    """The clocks of this machine. `trust` = "always": the wall clock is trusted without a check."""

    def __init__(self, trust: Trust = "auto") -> None:
        self._trust = trust
        self._boot_id = _BOOT_ID_FILE.read_text().strip()
        self._timedated = Timedated(boottime_s)
        self._marks = SyncMarks()
        self._in_order = threading.Lock()  # marks are judged in the order of the readings

    def now(self) -> ClockReading:
        """A reading of the clocks now.

        The kernel's status is read before and after: a clock that is set in between is not trusted.
        Nor is a time before the release date of this program.
        """
        with self._in_order:
            before = kernel_time()
            wall_us, boot_us = _both_clocks_us()
            confirmed = self._confirmation(before, wall_us, boot_us)
        if confirmed is None or wall_us < RELEASED_US:
            return ClockReading(wall_us, self._boot_id, boot_us, trusted=False)
        return ClockReading(
            wall_us,
            self._boot_id,
            boot_us,
            trusted=True,
            max_error_us=confirmed.max_error_us,
            is_inherited=confirmed.is_inherited,
        )

    def _confirmation(self, before: KernelTime | None, wall_us: int, boot_us: int) -> Confirmation | None:
        """What confirms the reading; None if it is not to be trusted."""
        if self._trust == "always":
            return Confirmation(0)
        after = kernel_time()
        if before is None or after is None:
            return self._confirmation_without_kernel(wall_us, boot_us)
        if not (before.synchronised and after.synchronised):
            return None
        return Confirmation(max(before.max_error_us, after.max_error_us))

    def _confirmation_without_kernel(self, wall_us: int, boot_us: int) -> Confirmation | None:
        # A sandbox that forbids adjtimex (seccomp, as with ProtectClock=) leaves timesyncd's file, and
        # timedated's answer, which is the kernel's, for any other time daemon and for a mark whose origin
        # this process has not seen.
        marked = self._marks.judge(_timesyncd_mark_us(), wall_us, boot_us)
        if marked is not None and not marked.is_inherited:
            return marked
        error_us = self._timedated.max_error_us(wall_us - boot_us)
        if error_us is None:
            return marked
        return Confirmation(error_us if marked is None else min(error_us, marked.max_error_us))


def boottime_s() -> float:
    """Seconds since boot; unlike time.monotonic() it counts the time of a suspend."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def is_synchronised() -> bool:
    """True if the kernel, timesyncd or timedated reports the wall clock as synchronised."""
    kernel = kernel_time()
    if kernel is not None:
        return kernel.synchronised
    wall_us, boot_us = _both_clocks_us()
    marked = SyncMarks().judge(_timesyncd_mark_us(), wall_us, boot_us)
    return marked is not None or Timedated(boottime_s).ask(wall_us - boot_us)


def off(ahead_s: float) -> str:
    """The error of a clock as text, for example "3 h 12 min ahead"."""
    left, words = round(abs(ahead_s)), []
    for unit, size in (("years", 31_556_952), ("days", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count:
            words.append(f"{count} {unit.removesuffix('s') if count == 1 and size > 1 else unit}")
    return f"{' '.join(words[:2]) or '0 s'} {'ahead' if ahead_s > 0 else 'behind'}"


def kernel_time() -> KernelTime | None:
    """The result of adjtimex(2); None where it is not permitted."""
    timex = _Timex()
    answer: int = _LIBC.adjtimex(ctypes.byref(timex))
    if answer < 0:
        return None
    return KernelTime(answer != _TIME_ERROR, int(timex.maxerror))


def _timesyncd_mark_us() -> int | None:
    """When timesyncd last corrected the wall clock, in microseconds since 1970; None if never."""
    try:
        return _TIMESYNCD_FILE.stat().st_mtime_ns // 1_000
    except OSError:
        return None


def _both_clocks_us() -> tuple[int, int]:
    """Wall and boot-time clock read together, within some microseconds.

    Earlier times are corrected by their difference, so its error must be below a millisecond, also on
    a busy Pi Zero. The wall clock is read between two readings of the boot-time clock.
    """
    best = None
    for _ in range(_READINGS):
        begun = boottime_us()
        wall_us = time.time_ns() // 1_000
        ended = boottime_us()
        if best is None or ended - begun < best[0]:
            best = (ended - begun, wall_us, (begun + ended) // 2)
        if ended - begun <= _TORN_US:
            break
    assert best is not None  # noqa: S101 - for the type checker: there is at least one reading
    return best[1], best[2]


def boottime_us() -> int:
    """Microseconds since boot, as in a ClockReading."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000


class _Timex(ctypes.Structure):
    """The head of struct timex. `long` is also correct on 32-bit machines.

    Also where time_t has 64 bits (Debian 13 on armhf): the symbol `adjtimex` of glibc is the one
    with 32-bit fields, for older programs; new ones are linked with `___adjtimex64`.
    """

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("rest", ctypes.c_char * 256),  # struct timex has 208 bytes on 64-bit, 128 on 32-bit Linux
    )


_LIBC = ctypes.CDLL(None, use_errno=True)
