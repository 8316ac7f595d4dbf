from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.backoff import Backoff

positive = st.floats(0.001, 3600)
fractions = st.floats(0, 1, exclude_max=True)


@given(positive, positive, st.lists(fractions, min_size=1, max_size=100))
def test_every_delay_is_above_zero_and_within_its_doubling_ceiling(
    first: float, cap: float, randoms: list[float]
) -> None:
    source = iter(randoms)
    backoff = Backoff(first=first, cap=cap, random=lambda: next(source))

    delays = [backoff.next() for _ in randoms]

    assert all(0 < delay <= min(cap, first * 2.0**n) for n, delay in enumerate(delays))


def test_ceilings_double_up_to_the_cap() -> None:
    backoff = Backoff(first=1, cap=60, random=lambda: 0.0)

    assert [backoff.next() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_the_whole_range_below_the_ceiling_is_used() -> None:
    backoff = Backoff(first=8, cap=60, random=lambda: 0.75)

    assert backoff.next() == 2


def test_success_resets_the_delays() -> None:
    backoff = Backoff(first=1, cap=60, random=lambda: 0.0)
    for _ in range(5):
        backoff.next()

    backoff.reset()

    assert backoff.failures == 0
    assert backoff.next() == 1


def test_years_of_failures_do_not_overflow() -> None:
    backoff = Backoff(first=1, cap=60, random=lambda: 0.0)
    backoff.failures = 10**9

    assert math.isfinite(backoff.next())
