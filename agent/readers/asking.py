"""When to ask a reader that speaks only when asked."""

from __future__ import annotations

from itertools import cycle

from agent.readers.protocol import Polling


class Asking:
    """The requests of a protocol, each in its turn. Times are seconds of one monotonic clock."""

    def __init__(self, polling: Polling) -> None:
        self._requests = cycle(polling.requests)
        self._every_s = polling.every_ms / 1000
        self._next_s = 0.0

    def due(self, now_s: float) -> bytes:
        """The request to send now; b"" if it is not time yet."""
        if now_s < self._next_s:
            return b""
        # From now and not from the time it was due: after a pause there is nothing to catch up on.
        self._next_s = now_s + self._every_s
        return next(self._requests)

    def wait_s(self, now_s: float) -> float:
        """How long until the next one."""
        return max(0.0, self._next_s - now_s)
