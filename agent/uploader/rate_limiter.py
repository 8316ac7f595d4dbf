"""How fast requests may follow each other: pure arithmetic over a monotonic clock."""

from __future__ import annotations

from collections import deque

# The server counts when requests arrive, we when they leave; a second of ours is a little longer,
# so that jitter on the way never puts one request too many into a second of theirs.
_WINDOW_S = 1.05


class RateLimiter:
    """At most so many requests and so many bytes in any second."""

    def __init__(self, *, requests_per_second: float, bytes_per_second: int) -> None:
        self._requests = max(1, int(requests_per_second))
        self._bytes = bytes_per_second
        # Less than one a second is one in a longer time.
        self._window_s = _WINDOW_S * max(1.0, 1.0 / requests_per_second)
        self._spent: deque[tuple[float, int]] = deque()

    def ready_in(self, now: float, size: int = 0) -> float:
        """Seconds until a request with `size` bytes may leave; 0.0 for at once."""
        # One request larger than a second's worth leaves when nothing else did for a second.
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
        """A request with `size` bytes leaves now."""
        self._spent.append((now, size))
