"""Suppresses repeats: readers send a card again and again while it is in the field."""

from __future__ import annotations

from agent.swipe import CardRead

# More cards than a reader can read within a hold-off. Beyond it the least recently read card is
# forgotten and might be reported twice, which is better than unbounded memory.
HELD_CARDS_MAX = 1024


class HoldOff:
    """A window for each card, extended by every read: it ends `hold_off_ms` after the last one.

    With one window per card, two cards in one wallet that are read alternately are two swipes.
    Times are milliseconds of one monotonic clock.
    """

    def __init__(self, hold_off_ms: int) -> None:
        self._hold_off_ms = hold_off_ms
        # Keyed by the bits as read: card numbers are not unique. Least recently read first.
        self._last_read_ms: dict[tuple[int, str], int] = {}

    def admits(self, card: CardRead, now_ms: int) -> bool:
        """True for a new presentation, False for a repeat."""
        self._drop_expired(now_ms)
        identity = (card.bits, card.raw)
        repeated = self._last_read_ms.pop(identity, None) is not None
        if self._hold_off_ms > 0:
            self._last_read_ms[identity] = now_ms
        if len(self._last_read_ms) > HELD_CARDS_MAX:
            del self._last_read_ms[next(iter(self._last_read_ms))]
        return not repeated

    def forget(self, card: CardRead) -> None:
        """End the hold-off of this card: its swipe could not be kept, so its next read is a new one."""
        self._last_read_ms.pop((card.bits, card.raw), None)

    def reset(self) -> None:
        """Forget every card: the port was reopened."""
        self._last_read_ms.clear()

    def _drop_expired(self, now_ms: int) -> None:
        while self._last_read_ms:
            identity, last_read_ms = next(iter(self._last_read_ms.items()))
            if now_ms - last_read_ms < self._hold_off_ms:
                return
            del self._last_read_ms[identity]
