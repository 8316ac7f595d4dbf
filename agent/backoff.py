"""Delays between retries: pure arithmetic, the random source is an argument."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Full jitter: the n-th delay is random in (0, min(cap, first * 2**n)] seconds.

    So that the agents of a fleet do not retry in step after a common outage.
    """

    def __init__(self, *, first: float, cap: float, random: Callable[[], float]) -> None:
        self._first = first
        self._cap = cap
        self._random = random
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        # 2**64 is past every cap; the bound keeps the power finite after years of failures.
        ceiling = min(self._cap, self._first * 2.0 ** min(self.failures, 64))
        self.failures += 1
        return ceiling * (1.0 - self._random())

    def reset(self) -> None:
        """Start a new series of failures: something succeeded."""
        self.failures = 0
