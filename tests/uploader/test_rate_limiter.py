from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.uploader.rate_limiter import RateLimiter


def departures(pace: RateLimiter, requests: list[tuple[float, int]]) -> list[tuple[float, int]]:
    """When each request leaves that is wanted so many seconds after the one before left."""
    now, left = 0.0, []
    for pause, size in requests:
        now += pause
        while wait := pace.ready_in(now, size):
            now += max(wait, 1e-6)
        pace.spend(now, size)
        left.append((now, size))
    return left


wanted = st.lists(st.tuples(st.floats(0, 0.5), st.integers(0, 40)), max_size=60)


@given(wanted, st.sampled_from([0.1, 0.5, 1, 1.5, 3, 10]))
@example([(0.0, 0)] * 40, 10)
def test_no_second_holds_more_requests_than_allowed(
    requests: list[tuple[float, int]], requests_per_second: float
) -> None:
    pace = RateLimiter(requests_per_second=requests_per_second, bytes_per_second=10**9)
    window_s, allowed = max(1.0, 1 / requests_per_second), max(1, int(requests_per_second))

    left = departures(pace, requests)

    for start, _ in left:
        assert sum(1 for when, _ in left if start <= when < start + window_s) <= allowed


@given(wanted)
def test_no_second_holds_more_bytes_than_allowed(requests: list[tuple[float, int]]) -> None:
    left = departures(RateLimiter(requests_per_second=100, bytes_per_second=50), requests)

    for start, _ in left:
        assert sum(size for when, size in left if start <= when < start + 1) <= 50


def test_the_first_requests_leave_at_once() -> None:
    left = departures(RateLimiter(requests_per_second=10, bytes_per_second=100), [(0.0, 10)] * 10)

    assert left == [(0.0, 10)] * 10


def test_a_request_larger_than_a_seconds_worth_leaves_when_the_second_is_empty() -> None:
    pace = RateLimiter(requests_per_second=10, bytes_per_second=100)

    left = departures(pace, [(0.0, 500), (0.0, 500), (0.0, 1)])

    assert [when for when, _ in left] == pytest.approx([0.0, 1.05, 2.10])
