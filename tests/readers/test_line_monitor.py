from __future__ import annotations

import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.readers.line_monitor import NOISY_PER_MINUTE, QUIET_PER_MINUTE, LineMonitor


def traffic(expect_within_s: float | None = None) -> LineMonitor:
    watched = LineMonitor("RDR-101", expect_within_s=expect_within_s)
    watched.port_opened(0.0)
    return watched


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.levelname for record in caplog.records]


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")


def test_a_reader_of_which_nothing_is_expected_never_wakes_anybody() -> None:
    watched = traffic()

    assert watched.wait_s(0.0) == math.inf
    assert not watched.update(1e9)


def test_silence_is_one_warning_and_its_end_one_line(caplog: pytest.LogCaptureFixture) -> None:
    watched = traffic(expect_within_s=60)

    assert watched.wait_s(20.0) == 40.0
    assert not watched.update(59.9)
    assert watched.update(60.0)
    assert not watched.update(1000.0)
    assert watched.wait_s(1000.0) == math.inf
    watched.bytes_received(1001.0)

    assert not watched.silent
    assert levels(caplog) == ["WARNING", "INFO"]
    assert watched.wait_s(1001.0) == 60.0


def test_every_byte_puts_the_silence_off() -> None:
    watched = traffic(expect_within_s=60)

    watched.bytes_received(59.0)

    assert not watched.update(118.0)
    assert watched.update(119.0)


def test_a_lost_port_is_not_silent_but_lost() -> None:
    watched = traffic(expect_within_s=60)
    watched.update(60.0)

    watched.port_lost()

    assert not watched.silent
    assert watched.wait_s(500.0) == math.inf
    assert not watched.update(500.0)


def test_much_noise_within_a_minute_is_one_warning_and_its_end_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watched = traffic()

    for number in range(NOISY_PER_MINUTE * 4):
        watched.noise_received(number * 0.5)
    last = (NOISY_PER_MINUTE * 4 - 1) * 0.5
    assert not watched.update(last + 50.0)
    assert watched.update(last + watched.wait_s(last))

    assert not watched.noisy
    assert levels(caplog) == ["WARNING", "INFO"]
    assert watched.wait_s(last + 100.0) == math.inf


def test_a_few_broken_frames_now_and_then_are_not_noisy(caplog: pytest.LogCaptureFixture) -> None:
    watched = traffic()
    apart_s = 61.0 / (NOISY_PER_MINUTE - 1)

    for number in range(1000):
        watched.noise_received(number * apart_s)
        watched.update(number * apart_s)

    assert not watched.noisy
    assert levels(caplog) == []


def test_less_noise_than_makes_a_reader_noisy_may_keep_it_so(caplog: pytest.LogCaptureFixture) -> None:
    watched = traffic()
    for _ in range(NOISY_PER_MINUTE):
        watched.noise_received(0.0)
    apart_s = 59.0 / QUIET_PER_MINUTE

    for number in range(100):
        watched.noise_received(number * apart_s)
        watched.update(number * apart_s)

    assert watched.noisy
    assert levels(caplog) == ["WARNING"]


@given(
    steps=st.lists(st.tuples(st.floats(0.0, 40.0), st.sampled_from(["heard", "noise", "nothing"]))),
    expect_within_s=st.one_of(st.none(), st.floats(1.0, 100.0)),
)
def test_before_the_wait_is_over_time_alone_changes_nothing(
    steps: list[tuple[float, str]], expect_within_s: float | None
) -> None:
    watched = traffic(expect_within_s)
    now_s = 0.0
    for after_s, event in steps:
        now_s += after_s
        watched.update(now_s)
        if event != "nothing":
            watched.bytes_received(now_s)
        if event == "noise":
            watched.noise_received(now_s)

    wait_s = watched.wait_s(now_s)

    assert wait_s >= 0.0
    assert wait_s == math.inf or not watched.update(now_s + max(0.0, wait_s - 0.001))
    assert wait_s == math.inf or watched.update(now_s + wait_s + 0.001)
