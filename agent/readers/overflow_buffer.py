"""Buffers swipes in memory, in order, while the disk is full."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from agent.errors import OutboxFullError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId
from agent.swipe import Swipe

_log = logging.getLogger(__name__)

# Some hours of a busy door. Bounded, because memory does not survive a restart.
BUFFERED_SWIPES_MAX = 1_000


class OverflowBuffer:
    """Buffer between a reader and the outbox, empty unless the disk is full."""

    def __init__(self, keep: Callable[[list[Swipe]], None], reader_id: str) -> None:
        """`keep` returns once the swipes are on disk, and raises OutboxFullError without room."""
        self._keep = keep
        self._swipes: list[Swipe] = []
        self._faults = FailureLog(
            _log, f"reader {reader_id}", time.monotonic, recovery=MessageId.DISK_HAS_ROOM, reader=reader_id
        )

    def __len__(self) -> int:
        return len(self._swipes)

    def keep(self, swipes: list[Swipe]) -> int:
        """Keep the buffered swipes and these; buffer those without room. Returns how many were kept.

        Raises OutboxFullError if the buffer is full: then these swipes are refused. Raises OutboxError.
        """
        if len(self._swipes) + len(swipes) > BUFFERED_SWIPES_MAX:
            raise OutboxFullError(
                f"the disk is full and {len(self._swipes)} swipes are buffered in memory; one more was lost",
                hint="free space on the disk now: df -h",
            )
        self._swipes += swipes
        before = len(self._swipes)
        try:
            self._keep_what_fits()
        except OutboxFullError as error:
            self._faults.failed(error, MessageId.DISK_FULL)
        except BaseException:
            # The error reports these as not kept, so the caller may offer them again.
            del self._swipes[max(0, len(self._swipes) - len(swipes)) :]
            raise
        else:
            self._faults.recovered()
        return before - len(self._swipes)

    def _keep_what_fits(self) -> None:
        """Keep all in one transaction, else halves: an almost full disk may have room for one swipe."""
        count = len(self._swipes)
        while self._swipes:
            try:
                self._keep(self._swipes[:count])
            except OutboxFullError:
                if count == 1:
                    raise
                count = max(1, count // 2)
            else:
                del self._swipes[:count]
                count = min(count, len(self._swipes))
