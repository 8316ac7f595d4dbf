from __future__ import annotations

import time
from pathlib import Path

from agent.clock import SystemClock, is_synchronised


def test_a_moment_lies_between_what_the_clocks_said_before_and_after() -> None:
    clock = SystemClock()
    before = time.time_ns() // 1_000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000

    moment = clock.now()

    after = time.time_ns() // 1_000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000
    assert before[0] <= moment.wall_us <= after[0]
    assert before[1] <= moment.boot_us <= after[1]


def test_a_moment_names_this_boot() -> None:
    moment = SystemClock().now()

    assert moment.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def test_the_kernel_decides_whether_the_wall_clock_is_trusted() -> None:
    assert SystemClock("auto").now().trusted == is_synchronised()


def test_a_machine_whose_clock_is_always_right_needs_no_word_of_the_kernel() -> None:
    assert SystemClock("always").now().trusted
