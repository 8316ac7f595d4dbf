"""How soon the next request may leave: pure arithmetic over a monotonic clock."""

from __future__ import annotations

import math
from collections import deque

# The server counts requests when they arrive, this object when they leave. The window is a little
# longer than a second, so that network jitter never moves one too many into a second of the server's.
_WINDOW_S = 1.05


class RateLimiter:
    """Limits the requests and the bytes in any window of one second."""

    def __init__(self, *, requests_per_second: float, bytes_per_second: int) -> None:
        self._requests = max(1, int(requests_per_second))
        self._bytes = bytes_per_second
        # A rate below one per second is one request in a longer window.
        self._window_s = _WINDOW_S * max(1.0, 1.0 / requests_per_second)
        self._spent: deque[tuple[float, int]] = deque()
        self._last_s = -math.inf
        self.requests = 0  # that have left

    def after_last(self, pause_s: float, now: float) -> float:
        """Seconds until the last request of any sender left `pause_s` ago."""
        return max(0.0, self._last_s + pause_s - now)

    def ready_in(self, now: float, size: int = 0) -> float:
        """Seconds until a request with `size` bytes may leave; 0.0 if it may leave now."""
        # A request larger than one second's bytes may leave after a second without any other.
        size = min(size, self._bytes)
        while self._spent and self._spent[0][0] <= now - self._window_s:
            self._spent.popleft()
        room, bytes_left = self._requests - len(self._spent), self._bytes - sum(n for _, n in self._spent)
        wait = 0.0
        for when, freed in self._spent:
            if room >= 1 and bytes_left >= size:
                break
            room, bytes_left, wait = room + 1, bytes_left + freed, when + self._window_s - now
        return wait

    def spend(self, now: float, size: int = 0) -> None:
        """Count a request with `size` bytes that leaves now."""
        self._spent.append((now, size))
        self._last_s = now
        self.requests += 1
