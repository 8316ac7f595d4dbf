"""One held card is one swipe: readers repeat a card for as long as it is in the field."""

from __future__ import annotations

from agent.swipe import CardRead

# More cards than any reader can tell apart within a hold-off. Past it the card unseen for
# longest is forgotten, and might be reported twice: better than memory that grows.
HELD_CARDS_MAX = 1024


class HoldOff:
    """Per card, a window that every repeat extends: it ends `hold_off_ms` after the last read.

    Each card has its own window, so that two cards in one wallet, read in turns, are two swipes
    and not one for every turn. Times are milliseconds of one monotonic clock.
    """

    def __init__(self, hold_off_ms: int) -> None:
        self._hold_off_ms = hold_off_ms
        # The bits as read are a card's identity; card numbers are not unique. Longest unseen first.
        self._last_read_ms: dict[tuple[int, str], int] = {}
        self.repeats = 0

    def admits(self, card: CardRead, now_ms: int) -> bool:
        """True for a new presentation; False for a repeat, which is counted."""
        self._drop_expired(now_ms)
        identity = (card.bits, card.raw)
        repeated = self._last_read_ms.pop(identity, None) is not None
        if self._hold_off_ms > 0:
            self._last_read_ms[identity] = now_ms
        if len(self._last_read_ms) > HELD_CARDS_MAX:
            del self._last_read_ms[next(iter(self._last_read_ms))]
        self.repeats += repeated
        return not repeated

    def forget(self, card: CardRead) -> None:
        """The swipe could not be kept: its next read is to be admitted again."""
        self._last_read_ms.pop((card.bits, card.raw), None)

    def reset(self) -> None:
        """Forget every card: the port was opened anew. The count of repeats goes on."""
        self._last_read_ms.clear()

    def _drop_expired(self, now_ms: int) -> None:
        while self._last_read_ms:
            identity, last_read_ms = next(iter(self._last_read_ms.items()))
            if now_ms - last_read_ms < self._hold_off_ms:
                return
            del self._last_read_ms[identity]
