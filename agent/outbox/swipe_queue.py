"""The bounded queue in memory between the reading threads and the writer's thread."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from itertools import islice

from agent.errors import OutboxError
from agent.swipe import Swipe

# Per reader: some hours of a busy door. Bounded, because memory does not survive a restart.
QUEUED_SWIPES_MAX = 1_000
# As many more are admitted until the next try to store them has failed: there may be room again.
_UNTIL_NEXT_TRY_MAX = 100


class SwipeQueue:
    """Swipes in the order of their reading, until they are on disk. For several threads.

    put() never waits for the disk. A swipe leaves the queue only after it was stored, so a failed
    transaction changes nothing here. One thread takes: first(), then remove_first() of as many, or
    refuse_excess() after a failure.
    """

    def __init__(self, reader_ids: Iterable[str]) -> None:
        self.problem: OutboxError | None = None  # why the outbox takes no swipe now; set by the taking thread
        self._changed = threading.Condition()
        self._swipes: deque[Swipe] = deque()
        self._waiting = dict.fromkeys(reader_ids, 0)
        self._refused: dict[str, list[Swipe]] = {reader_id: [] for reader_id in self._waiting}
        self._stored: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        # Readers that send more than people can: their swipes are refused while the disk is short of space.
        self._flooding: frozenset[str] = frozenset()
        self._flood_refused: Counter[str] = Counter()
        self._is_disk_short = False
        self._news = 0

    def __len__(self) -> int:
        return len(self._swipes)

    @property
    def news(self) -> int:
        """A number that changes with every put() and wake()."""
        return self._news

    # --- the reading threads ----------------------------------------------------------------------

    def put(self, swipe: Swipe) -> None:
        """Append a swipe. It is refused if too many of its reader wait, now or after the next failed try.

        And if its reader floods while the disk is short of space; then the taking thread is not woken.
        """
        with self._changed:
            if swipe.reader_id in self.cut_off:
                self._flood_refused[swipe.reader_id] += 1
                self._give_back(swipe)
                return
            if self._waiting[swipe.reader_id] < QUEUED_SWIPES_MAX + _UNTIL_NEXT_TRY_MAX:
                self._waiting[swipe.reader_id] += 1
                self._swipes.append(swipe)
            else:
                self._lose(swipe)
            self._news += 1
            self._changed.notify_all()

    def set_flooding(self, reader_id: str, *, flooding: bool) -> None:
        """The reader sends more swipes than people can make, or no longer."""
        with self._changed:
            self._flooding = self._flooding | {reader_id} if flooding else self._flooding - {reader_id}
        self.wake()

    def take_refused(self, reader_id: str) -> list[Swipe]:
        """The swipes of a reader that were refused since the last call."""
        if not self._refused[reader_id]:
            return []
        with self._changed:
            refused, self._refused[reader_id] = self._refused[reader_id], []
        return refused

    def _lose(self, swipe: Swipe) -> None:
        self._lost[swipe.reader_id] += 1
        self._give_back(swipe)

    def _give_back(self, swipe: Swipe) -> None:
        self._refused[swipe.reader_id].append(swipe)
        # A reader whose port is missing never takes them. Its hold-off ends by itself within a second.
        del self._refused[swipe.reader_id][:-_UNTIL_NEXT_TRY_MAX]

    # --- the taking thread ------------------------------------------------------------------------

    def first(self, limit: int) -> list[Swipe]:
        """The oldest swipes, at most `limit`."""
        with self._changed:
            return list(islice(self._swipes, limit))

    def remove_first(self, count: int, *, stored: bool) -> None:
        """Remove the oldest swipes: they are on disk, or, if not `stored`, nothing can store them."""
        with self._changed:
            for _ in range(count):
                reader_id = self._swipes.popleft().reader_id
                self._waiting[reader_id] -= 1
                (self._stored if stored else self._lost)[reader_id] += 1

    def refuse_excess(self) -> None:
        """After a failed try: refuse the newest swipes of each reader that has more than its share."""
        with self._changed:
            excess = {
                reader_id: count - QUEUED_SWIPES_MAX
                for reader_id, count in self._waiting.items()
                if count > QUEUED_SWIPES_MAX
            }
            kept: deque[Swipe] = deque()
            while any(excess.values()):
                swipe = self._swipes.pop()
                if excess.get(swipe.reader_id):
                    excess[swipe.reader_id] -= 1
                    self._waiting[swipe.reader_id] -= 1
                    self._lose(swipe)
                else:
                    kept.appendleft(swipe)
            self._swipes += kept

    def set_disk_short(self, is_short: Callable[[], bool]) -> None:
        """Refuse the swipes of flooding readers, or no longer; the disk is asked only if there is one."""
        self._is_disk_short = bool(self._flooding) and is_short()

    def wait(self, news: int, timeout_s: float | None) -> None:
        """Return once `news` differs from the given one, or after the timeout; None waits without limit."""
        with self._changed:
            self._changed.wait_for(lambda: self._news != news, timeout_s)

    def wake(self) -> None:
        """End the wait of the taking thread. From any thread."""
        with self._changed:
            self._news += 1
            self._changed.notify_all()

    @property
    def has_flood(self) -> bool:
        """Whether a reader floods: then set_disk_short() has to be called now and then."""
        return bool(self._flooding)

    @property
    def cut_off(self) -> frozenset[str]:
        """The readers whose swipes are refused, so that other readers and the system have room."""
        return self._flooding if self._is_disk_short else frozenset()

    # --- counters, for any thread -----------------------------------------------------------------

    def stored(self, reader_id: str) -> int:
        """Swipes of a reader that this process has stored."""
        return self._stored[reader_id]

    def blocked(self, reader_id: str) -> int:
        """Swipes of a reader that wait because the outbox takes none; 0 while it works."""
        return self._waiting[reader_id] if self.problem is not None else 0

    def lost(self, reader_id: str) -> int:
        """Swipes of a reader for which there was no room in memory."""
        return self._lost[reader_id]

    def flood_refused(self, reader_id: str) -> int:
        """Swipes of a reader that were refused because it flooded while the disk was short of space."""
        return self._flood_refused[reader_id]
