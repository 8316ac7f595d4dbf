from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.clock import system_clock
from agent.clock.sync_marks import GROWTH, LARGEST_ERROR_US
from agent.clock.system_clock import RELEASED_US, KernelTime, SystemClock, is_synchronised, kernel_time, off
from agent.settings import Trust
from tests.support.programs import install
from tests.support.swipes import wait_until


def test_a_moment_lies_between_what_the_clocks_said_before_and_after() -> None:
    system = SystemClock()
    before = time.time_ns() // 1_000, time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000

    moment = system.now()

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


class Kernel:
    """An adjtimex(2) with a chosen result."""

    def __init__(self, answer: int, max_error_us: int = 0) -> None:
        self._answer = answer
        self._max_error_us = max_error_us

    def adjtimex(self, timex: object) -> int:
        ctypes.cast(timex, ctypes.POINTER(system_clock._Timex)).contents.maxerror = self._max_error_us  # type: ignore[arg-type]
        return self._answer


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int, int], None]:
    """What the kernel says; timesyncd has said nothing."""
    monkeypatch.setattr(system_clock, "_TIMESYNCD_FILE", tmp_path / "synchronized")
    return lambda answer, max_error_us: monkeypatch.setattr(
        system_clock, "_LIBC", Kernel(answer, max_error_us)
    )


def test_a_synchronised_kernel_tells_how_far_off_it_may_be(says: Callable[[int, int], None]) -> None:
    says(0, 1_000_000)

    now = SystemClock().now()

    assert now.trusted
    assert now.max_error_us == 1_000_000
    assert kernel_time() == KernelTime(synchronised=True, max_error_us=1_000_000)


def test_a_kernel_that_is_not_synchronised_outweighs_what_timesyncd_left(
    says: Callable[[int, int], None], tmp_path: Path
) -> None:
    says(5, 16_000_000)
    (tmp_path / "synchronized").touch()

    assert not SystemClock().now().trusted
    assert not is_synchronised()


@pytest.mark.parametrize("left", [True, False])
def test_where_the_kernel_may_not_be_asked_timesyncd_is(
    says: Callable[[int, int], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left: bool,  # noqa: FBT001 - pytest calls by name
) -> None:
    says(-1, 0)
    monkeypatch.setenv("PATH", str(tmp_path))  # no timedatectl
    if left:
        (tmp_path / "synchronized").touch()

    assert SystemClock().now().trusted is left
    assert is_synchronised() is left


@pytest.mark.parametrize(
    "ago_s",
    [
        pytest.param(10 * 3_600, id="offline for longer than the kernel would trust it"),
        pytest.param(-3_600, id="set back by hand since"),
    ],
)
def test_what_timesyncd_left_of_another_time_is_no_word_about_this_one(
    says: Callable[[int, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ago_s: int
) -> None:
    says(-1, 0)
    monkeypatch.setenv("PATH", str(tmp_path))  # no timedatectl
    mark = tmp_path / "synchronized"
    mark.touch()
    os.utime(mark, (time.time() - ago_s,) * 2)

    assert not SystemClock().now().trusted
    assert not is_synchronised()


def test_what_timesyncd_left_tells_how_far_off_the_clock_may_be(
    says: Callable[[int, int], None], tmp_path: Path
) -> None:
    says(-1, 0)
    mark = tmp_path / "synchronized"
    mark.touch()
    os.utime(mark, (time.time() - 2_048,) * 2)

    now = SystemClock().now()

    assert now.trusted
    assert now.max_error_us >= 1_024_000


@pytest.mark.parametrize("mark_s", [None, 33_000])
def test_an_answer_of_timedated_contains_no_time_of_a_correction(
    says: Callable[[int, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark_s: float | None
) -> None:
    says(-1, 0)
    install(tmp_path, "timedatectl", "echo yes")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    if mark_s is not None:  # too old to confirm the clock by itself
        mark = tmp_path / "synchronized"
        mark.touch()
        os.utime(mark, (time.time() - mark_s,) * 2)
    system = SystemClock()

    wait_until(lambda: system.now().trusted, what="the answer")
    now = system.now()

    assert LARGEST_ERROR_US + 1_000_000 > now.max_error_us >= min(LARGEST_ERROR_US, now.boot_us * GROWTH)


@pytest.mark.parametrize("step_s", [3_600, -1_800, 600, -600, 1])
def test_a_clock_that_is_set_by_hand_is_not_trusted_until_the_next_mark(
    says: Callable[[int, int], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    """Within nine hours of the last mark, where the kernel's status cannot be read."""
    says(-1, 0)
    monkeypatch.setenv("PATH", str(tmp_path))  # no timedatectl
    mark, system, real_ns = tmp_path / "synchronized", SystemClock(), time.time_ns
    mark.touch()
    os.utime(mark, (time.time() - 1_000,) * 2)
    assert system.now().trusted

    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + step_s * 10**9)
    after_step = system.now()
    os.utime(mark, ns=(time.time_ns(),) * 2)
    after_mark = system.now()

    assert not after_step.trusted
    assert after_mark.trusted
    assert after_mark.max_error_us < 500
    assert not after_mark.is_inherited


@pytest.mark.parametrize("trust", ["auto", "always"])
def test_a_time_from_before_the_release_is_never_trusted(
    says: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch, trust: Trust
) -> None:
    says(0, 0)
    monkeypatch.setattr(time, "time_ns", lambda: (RELEASED_US - 1) * 1_000)

    assert not SystemClock(trust).now().trusted


def test_a_release_lies_in_the_past() -> None:
    assert time.time_ns() // 1_000 > RELEASED_US


def test_both_clocks_are_read_at_one_moment() -> None:
    readings = [SystemClock("always").now().offset_us for _ in range(200)]

    assert sorted(readings)[150] - sorted(readings)[50] < 1_000


@pytest.mark.parametrize(
    ("ahead_s", "words"),
    [
        (0, "0 s behind"),
        (-11_520, "3 h 12 min behind"),
        (7_200, "2 h ahead"),
        (90.4, "1 min 30 s ahead"),
        (-1_772_366_400, "56 years 59 days behind"),
        (31_556_952 + 86_400, "1 year 1 day ahead"),
    ],
)
def test_how_far_a_clock_is_off_is_told_in_words(ahead_s: float, words: str) -> None:
    assert off(ahead_s) == words
