"""What the lights of readers show: swipes on disk, a blocked outbox, swipes that wait for Snowflake."""

from __future__ import annotations

import time

from agent.outbox import Outbox
from agent.outbox.swipe_queue import SwipeQueue


class DeliveryState:
    """Implements agent.readers.reader_light.Durability. observe() is for the uploader's thread only."""

    def __init__(self, queue: SwipeQueue) -> None:
        self._queue = queue
        self._waiting_since_s: float | None = None
        self._waiting_up_to = 0  # the last row that was stored then

    def stored(self, reader_id: str) -> int:
        """How many swipes of this reader are on disk since the start."""
        return self._queue.stored(reader_id)

    def is_blocked(self, reader_id: str) -> bool:
        """Whether swipes of this reader cannot be stored now."""
        return self._queue.problem is not None or reader_id in self._queue.cut_off

    def waits_s(self) -> float:
        """How long swipes have waited for Snowflake, in seconds; 0 if none waits.

        Counted from the first observation with rows that are pending still: a little less than it is.
        """
        since_s = self._waiting_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

    def observe(self, outbox: Outbox) -> None:
        """Note which rows wait now."""
        state = outbox.state
        if not state.pending:
            self._waiting_since_s = None
        elif self._waiting_since_s is None or state.committed_n >= self._waiting_up_to:
            self._waiting_since_s, self._waiting_up_to = time.monotonic(), state.last_n
