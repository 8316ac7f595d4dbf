"""The body of the writer's thread: store what waits in the queue, in order, in few transactions.

Theory of operation

Reading threads put swipes into a SwipeQueue and continue. This thread takes all that wait, up to a
bound, and stores them in one transaction (group commit): a commit costs one flush of the disk, 5-50 ms
on an SD card, whatever it carries, and what arrives during one flush shares the next.

                  swipes wait                    committed, nothing waits
      +------+ ------------------> +---------+ ------------------------> IDLE
      | IDLE |                     | STORING |
      +------+                     +---------+ <-+
                                     |           | 1 s, or a new swipe and 0.1 s
                                     | OutboxError, MemoryError
                                     v           |
                                   +---------+ --+
                                   | BLOCKED |
                                   +---------+

Invariants
- A swipe leaves the queue after its transaction was committed, never before: nothing is lost between the
  two, and a failed transaction stores nothing.
- Swipes are stored in the order of the queue, whatever fails in between.
- Every OutboxError has the same consequence, BLOCKED: whether the disk is full, read-only or failing, the
  file is locked or there is a bug, what was read waits. So it is without memory. Only the log line names the
  cause.
- A reader that sends more swipes than people can make (readers.flood_monitor) is served like the others while
  the disk has room. Below that its swipes are refused and counted, before they are in the queue.
- The queue is bounded per reader. What exceeds the bound after a failed try is refused, counted as lost,
  and no longer held off, so that the card's next read is a new swipe.

The size of a transaction is halved while the disk has no room for it, and doubled after each success: an
almost full disk may have room for one swipe. A swipe that raises anything else is a bug; it
is stored alone, dropped if it raises again, and the swipes after it go on.

At the stop, when no reading thread runs any more, what waits is stored with the room that the reserve
gives back, until a deadline. The supervisor logs the number of those that are left.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence

from agent.errors import OutboxError, OutboxFullError, OutboxUnavailableError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.outbox.swipe_queue import SwipeQueue
from agent.service.worker import Busy
from agent.swipe import Swipe

_log = logging.getLogger(__name__)

# Bounds the time under the write lock: 500 swipes take some 30 ms on a Pi Zero, beside the flush.
SWIPES_PER_TRANSACTION = 500
_RETRY_S = 1.0
# A new swipe causes another try, but not more often than this: each one may write to a failing disk.
_SHORTEST_RETRY_S = 0.1


class WriteLoop:
    """Stores queued swipes and door events until stop(). step() does one bounded thing, without sleep."""

    def __init__(
        self,
        queue: SwipeQueue,
        keep: Callable[[Sequence[Swipe]], None],
        *,
        reader_ids: Iterable[str],
        free_reserve: Callable[[], None],
        is_disk_short: Callable[[], bool],
        changed: Callable[[], None],
        store_events: Callable[[], float | None] = lambda: None,
    ) -> None:
        """`keep` returns once the swipes are on disk, and raises OutboxError if none of them is.

        `changed` is called after each try; `free_reserve` once, if the outbox takes nothing during the stop.
        While `is_disk_short`, swipes of flooding readers are refused. `store_events` stores the door events
        that wait, and returns as step() does; it is called when no swipe waits.
        """
        self._queue = queue
        self._keep = keep
        self._free_reserve = free_reserve
        self._is_disk_short = is_disk_short
        self._cut_off: dict[str, int] = {}  # by reader: how many swipes were refused before
        self._changed = changed
        self._store_events = store_events
        self._limit = SWIPES_PER_TRANSACTION
        self._stops_at_s: float | None = None
        self._has_freed_reserve = False
        self._failures = _failure_log("outbox")
        self._losses = {reader_id: _failure_log(f"reader {reader_id}", reader_id) for reader_id in reader_ids}
        self._logged_losses: dict[str, int] = {}

    def run(self, busy: Busy) -> None:
        """The thread's body: busy(True) before each step, busy(False) before each wait."""
        while not self._is_over():
            busy(True)
            news = self._queue.news
            delay_s = self.step()
            busy(False)
            if delay_s is None and self._stops_at_s is None:
                # stop() wakes it: `news` was read before it was called
                self._queue.wait(news, _RETRY_S if self._queue.has_flood else None)
            elif delay_s:
                time.sleep(_SHORTEST_RETRY_S)
                self._queue.wait(news, delay_s - _SHORTEST_RETRY_S)
        self._cut_off_floods(lambda: False)  # logs how many swipes were refused

    def stop(self, until_s: float) -> None:
        """Make run() return when nothing waits, or at `until_s` of time.monotonic(). From any thread.

        Call it once no thread puts swipes any more.
        """
        self._stops_at_s = until_s
        self._queue.wake()

    def _is_over(self) -> bool:
        if self._stops_at_s is None:
            return False
        return not self._queue or time.monotonic() >= self._stops_at_s

    def step(self) -> float | None:
        """Store the oldest swipes in one transaction.

        Returns the seconds after which the next step has something to do, None if only a new swipe gives
        it something.
        """
        self._cut_off_floods(self._is_disk_short)
        swipes = self._queue.first(self._limit)
        if not swipes:
            return self._store_events()
        try:
            self._keep(swipes)
        except OutboxError as error:
            return self._wait(error, len(swipes))
        except MemoryError:  # of SQLite, too
            lack = OutboxUnavailableError("no memory is free", hint="what uses it: ps aux --sort -rss | head")
            return self._wait(lack, len(swipes))
        except Exception:
            if len(swipes) == 1:
                self._queue.remove_first(1, stored=False)
                raise
            self._limit = 1  # find the swipe that causes it
            return 0.0
        self._queue.remove_first(len(swipes), stored=True)
        self._queue.problem = None
        self._limit = min(2 * self._limit, SWIPES_PER_TRANSACTION)
        for failures in (self._failures, *self._losses.values()):
            failures.recovered()
        self._changed()
        return 0.0 if self._queue else self._store_events()

    def _wait(self, error: OutboxError, count: int) -> float:
        """Keep the swipes that were not stored in the queue. Returns the delay until the next try."""
        self._failed(error)
        return self._delay_after(error, count)

    def _failed(self, error: OutboxError) -> None:
        if self._queue.problem is None or type(error) is not type(self._queue.problem):
            self._failures = _failure_log("outbox")  # another cause is logged without rate limit
        self._queue.problem = error
        self._queue.refuse_excess()
        self._failures.failed(error, MessageId.DISK_FULL)
        for reader_id, failures in self._losses.items():
            lost = self._queue.lost(reader_id)
            if lost != self._logged_losses.get(reader_id, 0):
                self._logged_losses[reader_id] = lost
                failures.failed(_lost(lost, error), MessageId.SWIPES_LOST)
        self._changed()

    def _cut_off_floods(self, is_disk_short: Callable[[], bool]) -> None:
        """Have the queue refuse the swipes of flooding readers while the disk is short; log each change."""
        queue = self._queue
        queue.set_disk_short(is_disk_short)
        for reader_id in queue.cut_off - self._cut_off.keys():
            self._cut_off[reader_id] = queue.flood_refused(reader_id)
            _log.error(
                "reader %s: less than a fifth of the disk or 200 MB is free: its swipes are refused while it "
                "sends so many; disconnect the reader, then free space: df -h",
                reader_id,
                extra=fields(MessageId.SWIPES_LOST, reader=reader_id),
            )
        for reader_id in self._cut_off.keys() - queue.cut_off:
            _log.error(
                "reader %s: its swipes are stored again; %d were refused",
                reader_id,
                queue.flood_refused(reader_id) - self._cut_off.pop(reader_id),
                extra=fields(MessageId.DISK_HAS_ROOM, reader=reader_id),
            )

    def _delay_after(self, error: OutboxError, count: int) -> float:
        if self._stops_at_s is not None and not self._has_freed_reserve:
            self._has_freed_reserve = True
            self._free_reserve()
            return 0.0
        if isinstance(error, OutboxFullError) and count > 1:
            self._limit = count // 2
            return 0.0
        return _RETRY_S if self._stops_at_s is None else _SHORTEST_RETRY_S


def _failure_log(subject: str, reader_id: str | None = None) -> FailureLog:
    return FailureLog(_log, subject, time.monotonic, recovery=MessageId.DISK_HAS_ROOM, reader=reader_id)


def _lost(count: int, error: OutboxError) -> OutboxError:
    return OutboxError(
        f"the queue in memory is full, {count} swipes were lost since the start: {error}", hint=error.hint
    )
