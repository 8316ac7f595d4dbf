"""Suppresses repeats: readers send a card again and again while it is in the field."""

from __future__ import annotations

from typing import NamedTuple

from agent.swipe import CardRead

# More cards than a reader can read within a hold-off. Beyond it the least recently read card is
# forgotten and might be reported twice, which is better than unbounded memory.
HELD_CARDS_MAX = 1024


class _Read(NamedTuple):
    """When a card was last read: after `since_ms`, at `at_ms` at the latest."""

    since_ms: int
    at_ms: int


class HoldOff:
    """A window for each card, extended by every read: it ends `hold_off_ms` after the last one.

    With one window per card, two cards in one wallet that are read alternately are two swipes.
    Times are milliseconds of one monotonic clock.

    A read whose bytes waited has an interval instead of a moment, so the gap between two reads of a card
    has a smallest and a largest value. With a reader that repeats a held card, the smallest one decides:
    frames that waited are most likely one presentation. With any other reader each frame is a
    presentation, and the largest one decides, so that none is lost.
    """

    def __init__(self, hold_off_ms: int, *, repeats_while_held: bool = True) -> None:
        self._hold_off_ms = hold_off_ms
        self._repeats_while_held = repeats_while_held
        # Keyed by the bits as read: card numbers are not unique. Least recently read first.
        self._last_read: dict[tuple[int, str], _Read] = {}

    def admits(self, card: CardRead, now_ms: int, *, age_ms: int = 0) -> bool:
        """True for a new presentation, False for a repeat; the read is at most `age_ms` old."""
        read = _Read(now_ms - age_ms, now_ms)
        self._drop_expired(read)
        identity = (card.bits, card.raw)
        last = self._last_read.pop(identity, None)
        if self._hold_off_ms > 0:
            self._last_read[identity] = read
        if len(self._last_read) > HELD_CARDS_MAX:
            del self._last_read[next(iter(self._last_read))]
        return last is None or not self._is_repeat(last, read)

    def seed(self, bits: int, raw: str, at_ms: int) -> None:
        """Hold off a card that the previous process of this boot read last.

        Only with a reader that repeats a held card: otherwise its next frame is another presentation.
        """
        if self._repeats_while_held and self._hold_off_ms > 0:
            self._last_read[bits, raw] = _Read(at_ms, at_ms)

    def forget(self, card: CardRead) -> None:
        """End the hold-off of this card: its swipe could not be kept, so its next read is a new one."""
        self._last_read.pop((card.bits, card.raw), None)

    def reset(self) -> None:
        """Forget every card: the port was reopened."""
        self._last_read.clear()

    def _is_repeat(self, last: _Read, read: _Read) -> bool:
        smallest_ms, largest_ms = read.since_ms - last.at_ms, read.at_ms - last.since_ms
        return (smallest_ms if self._repeats_while_held else largest_ms) < self._hold_off_ms

    def _drop_expired(self, now: _Read) -> None:
        while self._last_read:
            identity, last = next(iter(self._last_read.items()))
            if now.since_ms - last.at_ms < self._hold_off_ms:
                return
            del self._last_read[identity]
