"""The operating system of a simulated door: clocks, sleep, random bytes, the kernel's clock status.

What the agent asks of the system is replaced here, at the system's functions; the agent's classes are real.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from agent.outbox import database, generation
from tests.simulation.disk import Disk
from tests.support.clock_rig import ClockRig

_NOT_SYNCHRONISED, _SYNCHRONISED = 5, 0
# What the boot-time clock shows when a boot gets as far as the agent.
_STARTED_US = 5e6
_BLOCKS, _BLOCK_BYTES = 10_000_000, 4096
# Intervals of a time service between two corrections, each of which leaves a mark (timesyncd.conf(5)).
_POLLS_US = (32_000_000, 256_000_000, 2_048_000_000)


class Machine(ClockRig):
    """One Pi: true time, its clocks, and what the kernel reports of them.

    `kernel_answers`: adjtimex(2) is permitted; otherwise the time service's mark, if it leaves any, and
    timedated are asked.
    """

    def __init__(self, directory: Path, disk: Disk, draw: Random) -> None:
        self._suspended_us = 0
        self._mark = directory / "synchronized"
        self._boot_id_file = directory / "boot_id"
        self._machine_id_file = directory / "machine-id"
        self._draw = draw
        self.disk = disk
        self.kernel_answers = draw.random() < 0.8
        self.free_blocks = _BLOCKS // 2
        self.answers_after_us = math.inf  # by the boot-time clock: when a time server answers after a boot
        self._came_us = 0  # by the boot-time clock: the first answer
        super().__init__(drift=draw.uniform(-2e-4, 2e-4))
        self._poll_us = draw.choice(_POLLS_US)
        self._leaves_marks = draw.random() < 0.5  # as timesyncd does; chrony does not
        self.move("1")

    # --- what happens to it ---------------------------------------------------------------------

    def boot(self, *, off_s: float = 10.0) -> None:
        super().boot(off_s=off_s + _STARTED_US / 1e6)
        self.boot_id = f"{self._draw.getrandbits(128):032x}"
        self._boot_id_file.write_text(self.boot_id + "\n")
        self._suspended_us = 0
        self._boot_us = self._confirmed_us = _STARTED_US
        self._mark.unlink(missing_ok=True)

    def move(self, number: str) -> None:
        """The SD card is in the machine with this serial number."""
        self._machine_id_file.write_text(number * 8 + "\n")

    def advance_us(self, us: int) -> None:
        """Let time pass; while a time service answers, it corrects the clock again and again."""
        self.advance(us / 1e6)
        if not self.has_ntp and self.boot_us >= self.answers_after_us:
            self.ntp_comes()
        if self.has_ntp:
            self._offset_us = self.true_offset_us
            self._touch_mark()

    def ntp_comes(self) -> None:
        super().ntp_comes()
        self._came_us = self.boot_us
        self._touch_mark()

    def ntp_goes(self) -> None:
        super().ntp_goes()
        self.answers_after_us = math.inf

    def suspend(self, seconds: float) -> None:
        """CLOCK_MONOTONIC stops, CLOCK_BOOTTIME does not."""
        before_us = self.boot_us
        self.advance_us(int(seconds * 1e6))
        self._suspended_us += self.boot_us - before_us

    def leap(self) -> None:
        """A leap second: POSIX time has one second twice."""
        self.true_us -= 1_000_000
        if self.has_ntp:
            self.advance_us(0)

    def _touch_mark(self) -> None:
        """The time service's mark has the wall time of its latest poll."""
        if self._leaves_marks and not self.kernel_answers:
            ago_us = (self.boot_us - self._came_us) % self._poll_us
            marked_ns = (self.wall_us - ago_us) * 1000
            self._mark.touch()
            os.utime(self._mark, ns=(marked_ns, marked_ns))

    # --- what the agent sees ----------------------------------------------------------------------

    @property
    def wall_us(self) -> int:
        """The wall clock."""
        return max(0, int(self._offset_us) + self.boot_us)

    @property
    def monotonic_s(self) -> float:
        """CLOCK_MONOTONIC."""
        return (self.boot_us - self._suspended_us) / 1e6

    def _sleep(self, seconds: float) -> None:
        self.advance_us(int(seconds * 1e6))

    def _clock_gettime_ns(self, clock: int) -> int:
        return self.boot_us * 1000 if clock == time.CLOCK_BOOTTIME else int(self.monotonic_s * 1e9)

    def _adjtimex(self, reference: Any) -> int:  # noqa: ANN401 - a pointer of ctypes
        if not self.kernel_answers:
            return -1
        now = self.now()
        reference._obj.maxerror = now.max_error_us
        return _SYNCHRONISED if now.trusted else _NOT_SYNCHRONISED

    def _timedatectl(self, *_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(stdout=b"yes\n" if self.now().trusted else b"no\n")

    def _statvfs(self, _path: object) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=self.free_blocks, f_frsize=_BLOCK_BYTES, f_blocks=_BLOCKS)

    @contextmanager
    def installed(self, draw: Random) -> Iterator[None]:
        """In place of the system of this process; `draw` gives every random number."""
        replaced = pytest.MonkeyPatch()
        try:
            for name, function in self._functions(draw):
                replaced.setattr(name, function)
            replaced.setattr(generation.machine_id, "__defaults__", ((self._machine_id_file,),))
            # Otherwise nine operations of ten are the growing of the log, each like the other.
            replaced.setattr(database, "_GROWN_WAL_BYTES", 20_000)
            yield
        finally:
            replaced.undo()

    def _functions(self, draw: Random) -> Iterator[tuple[str, object]]:
        system: dict[str, Callable[..., object]] = {
            "monotonic": lambda: self.monotonic_s,
            "monotonic_ns": lambda: int(self.monotonic_s * 1e9),
            "time": lambda: self.wall_us / 1e6,
            "time_ns": lambda: self.wall_us * 1000,
            "clock_gettime": lambda clock: self._clock_gettime_ns(clock) / 1e9,
            "clock_gettime_ns": self._clock_gettime_ns,
            "sleep": self._sleep,
        }
        for name, function in system.items():
            yield f"time.{name}", function
        yield "os.urandom", draw.randbytes
        yield "os.statvfs", self._statvfs
        yield "random._urandom", draw.randbytes
        yield "random.random", draw.random
        yield "agent.readers.session.random", draw.random
        yield "agent.service.worker.random", draw.random
        yield "agent.clock.system_clock._LIBC", SimpleNamespace(adjtimex=self._adjtimex)
        yield "agent.clock.system_clock._BOOT_ID_FILE", self._boot_id_file
        yield "agent.clock.system_clock._TIMESYNCD_FILE", self._mark
        # timedatectl(1) answers immediately, and without a thread.
        yield (
            "agent.clock.timedated.subprocess",
            SimpleNamespace(run=self._timedatectl, DEVNULL=-3, SubprocessError=RuntimeError),
        )
        yield "agent.clock.timedated.threading", SimpleNamespace(Thread=_Inline, Lock=threading.Lock)


class _Inline:
    """A thread that has done its work when it was started."""

    def __init__(self, target: Callable[..., object], args: tuple[object, ...] = (), **_: object) -> None:
        self._target, self._args = target, args

    def start(self) -> None:
        self._target(*self._args)
