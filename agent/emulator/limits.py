"""Rate limits per channel, and observed peaks; pure, the time is an argument."""

from __future__ import annotations

from collections import deque

REQUESTS_PER_SECOND = 10.0
BYTES_PER_SECOND = 20_000_000.0  # uncompressed
CHANNELS_PER_PIPE = 2000


class Bucket:
    """A token bucket of one second's capacity.

    One request may overdraw it, because 4 MB on the wire can decompress to more than one second's
    bytes; later requests wait until the deficit is refilled, so the average holds.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._level = per_second
        self._at = 0.0

    def allows(self, now: float, least: float) -> bool:
        """Whether at least `least` is left at the time `now` (seconds, monotonic)."""
        self._level = min(self._per_second, self._level + (now - self._at) * self._per_second)
        self._at = now
        return self._level >= least

    def take(self, amount: float) -> None:
        """Use up an amount that was allowed."""
        self._level -= amount


class Peak:
    """The largest sum within any window of one second."""

    def __init__(self) -> None:
        self._window: deque[tuple[float, int]] = deque()
        self._sum = 0
        self.highest = 0

    def add(self, now: float, amount: int = 1) -> None:
        """Count an amount at the time `now` (seconds, monotonic, never running back)."""
        self._window.append((now, amount))
        self._sum += amount
        while self._window[0][0] <= now - 1.0:
            self._sum -= self._window.popleft()[1]
        self.highest = max(self.highest, self._sum)
