"""Buffers swipes in memory, in order, while the outbox cannot be written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

from agent.errors import OutboxFullError, OutboxUnavailableError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId
from agent.swipe import Swipe

_log = logging.getLogger(__name__)

# Some hours of a busy door. Bounded, because memory does not survive a restart.
BUFFERED_SWIPES_MAX = 1_000


class Kept(NamedTuple):
    """What became of the buffered swipes and the new ones; all others are buffered."""

    stored: int
    refused: list[Swipe]  # the newest, which found no room in the buffer: they are lost
    error: OutboxUnavailableError | None  # why not all are stored


class OverflowBuffer:
    """Buffer between a reader and the outbox, empty unless the outbox cannot be written."""

    def __init__(self, keep: Callable[[list[Swipe]], None], reader_id: str) -> None:
        """`keep` returns once the swipes are on disk; raises OutboxUnavailableError if it cannot be now."""
        self._keep = keep
        self._reader_id = reader_id
        self._swipes: list[Swipe] = []
        self._cause: type[OutboxUnavailableError] | None = None
        self._failures = self._new_failure_log()

    def _new_failure_log(self) -> FailureLog:
        return FailureLog(
            _log,
            f"reader {self._reader_id}",
            time.monotonic,
            recovery=MessageId.DISK_HAS_ROOM,
            reader=self._reader_id,
        )

    def __len__(self) -> int:
        return len(self._swipes)

    def keep(self, swipes: list[Swipe]) -> Kept:
        """Store the buffered swipes, then these; buffer what cannot be stored now.

        Raises OutboxError for any failure that time does not repair: then these swipes are not buffered.
        """
        buffered, total = len(self._swipes), len(self._swipes) + len(swipes)
        self._swipes += swipes
        error: OutboxUnavailableError | None = None
        try:
            self._keep_what_fits(1 if buffered else total)
        except OutboxUnavailableError as reason:
            error = reason
            self._failed(reason)
        except BaseException:
            # The error reports these as not kept, so the caller may offer them again.
            del self._swipes[max(0, len(self._swipes) - len(swipes)) :]
            raise
        else:
            self._cause = None
            self._failures.recovered()
        stored = total - len(self._swipes)
        refused = self._swipes[BUFFERED_SWIPES_MAX:]
        del self._swipes[BUFFERED_SWIPES_MAX:]
        return Kept(stored, refused, error)

    def _failed(self, error: OutboxUnavailableError) -> None:
        if self._cause not in {None, type(error)}:
            self._failures = self._new_failure_log()  # another cause is logged without rate limit
        self._cause = type(error)
        self._failures.failed(error, MessageId.DISK_FULL)

    def _keep_what_fits(self, count: int) -> None:
        """Keep in transactions of `count` swipes first, then twice as many, or half on a full disk.

        An almost full disk may have room for one swipe. For other causes their number does not matter.
        """
        while self._swipes:
            try:
                self._keep(self._swipes[:count])
            except OutboxFullError:
                if count == 1:
                    raise
                count = max(1, count // 2)
            else:
                del self._swipes[:count]
                count = max(1, min(2 * count, len(self._swipes)))
