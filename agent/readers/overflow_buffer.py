"""Swipes that a full disk has no room for: held in memory, in order, until it has."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from agent.errors import OutboxFullError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId
from agent.swipe import Swipe

_log = logging.getLogger(__name__)

# Some hours of a busy door; a bound, because memory is no outbox.
UNKEPT_SWIPES_MAX = 1_000


class OverflowBuffer:
    """Between a reader and the outbox. Empty but for the time of a full disk."""

    def __init__(self, keep: Callable[[list[Swipe]], None], reader_id: str) -> None:
        """`keep` returns when the swipes are on disk, and raises OutboxFullError when there is no room."""
        self._keep = keep
        self._swipes: list[Swipe] = []
        self._faults = FailureLog(
            _log, f"reader {reader_id}", time.monotonic, recovery=MessageId.DISK_HAS_ROOM, reader=reader_id
        )

    def __len__(self) -> int:
        return len(self._swipes)

    def keep(self, swipes: list[Swipe]) -> int:
        """Keep these and all that wait; those there is no room for wait on. Returns how many were kept.

        Raises OutboxFullError, with the swipes refused, when too many wait already; OutboxError passes.
        """
        if len(self._swipes) + len(swipes) > UNKEPT_SWIPES_MAX:
            raise OutboxFullError(
                f"the disk is full and {len(self._swipes)} swipes wait in memory; one more was lost",
                hint="free space on the disk at once: df -h",
            )
        self._swipes += swipes
        before = len(self._swipes)
        try:
            self._keep_what_fits()
        except OutboxFullError as error:
            self._faults.failed(error, MessageId.DISK_FULL)
        except BaseException:
            # The caller is told that these were not kept, and may come with them again.
            del self._swipes[max(0, len(self._swipes) - len(swipes)) :]
            raise
        else:
            self._faults.recovered()
        return before - len(self._swipes)

    def _keep_what_fits(self) -> None:
        """All at once, else halves: a disk that is almost full may have room for one more swipe."""
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
