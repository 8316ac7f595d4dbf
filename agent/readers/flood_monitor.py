"""Detects a reader that sends more swipes than people can make: a broken or hostile device."""

from __future__ import annotations

import logging
import math

from agent.log.message_ids import MessageId, fields

_log = logging.getLogger(__name__)

# People do not present twenty cards a second to one reader. Bytes that waited in a restart are more than that
# within one second, but never within so many in a row.
FLOOD_PER_SECOND = 20
FLOOD_SECONDS = 10


class FloodMonitor:
    """The state `flooding` of one reader; each change is one log line.

    It begins after FLOOD_SECONDS consecutive seconds with more than FLOOD_PER_SECOND swipes each, and ends
    after as many with at most so many. Times are seconds of one monotonic clock; its whole seconds count.
    `flooding` is written by the reader's thread only, read by any.
    """

    def __init__(self, reader_id: str) -> None:
        self._reader_id = reader_id
        self._second = 0  # the one that is being counted
        self._count = 0
        self._run = 0  # completed seconds in a row that contradict the state
        self.flooding = False

    def swipe_read(self, now_s: float) -> bool:
        """Count a swipe; True if the state changed."""
        changed = self.update(now_s)
        self._count += 1
        return changed

    def update(self, now_s: float) -> bool:
        """Apply the passing of time; True if the state changed."""
        second = int(now_s)
        if second <= self._second:
            return False
        before = self.flooding
        self._complete(self._count > FLOOD_PER_SECOND)
        if second > self._second + 1:
            self._complete(False, seconds=second - self._second - 1)
        self._second, self._count = second, 0
        if self.flooding != before:
            self._log_change()
        return self.flooding != before

    def wait_s(self, now_s: float) -> float:
        """Seconds until update() may change the state if no swipe is read; infinite if never."""
        if not self.flooding:
            may_begin = self._run == FLOOD_SECONDS - 1 and self._count > FLOOD_PER_SECOND
            return max(0.0, self._second + 1 - now_s) if may_begin else math.inf
        return max(0.0, self._second + FLOOD_SECONDS - self._run - now_s)

    def _complete(self, is_flood: bool, *, seconds: int = 1) -> None:  # noqa: FBT001 - one second's verdict
        self._run = self._run + seconds if is_flood != self.flooding else 0
        if self._run >= FLOOD_SECONDS:
            self.flooding, self._run = not self.flooding, 0

    def _log_change(self) -> None:
        if self.flooding:
            _log.error(
                "reader %s: more than %d swipes a second for %d seconds: a broken or hostile device; "
                "disconnect it. Its swipes are stored while the disk has room",
                self._reader_id,
                FLOOD_PER_SECOND,
                FLOOD_SECONDS,
                extra=fields(MessageId.READER_FLOODING, reader=self._reader_id),
            )
        else:
            _log.info(
                "reader %s: no longer sends more than %d swipes a second",
                self._reader_id,
                FLOOD_PER_SECOND,
                extra=fields(MessageId.READER_FLOOD_ENDED, reader=self._reader_id),
            )
