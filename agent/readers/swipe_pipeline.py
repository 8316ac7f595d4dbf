"""From reader events to swipes on disk: decode, hold-off, badge id, keep; and the counters of one reader."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from agent.clock.reading import ClockReading
from agent.errors import OutboxUnavailableError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId
from agent.readers.cards.badge_id import badge_id
from agent.readers.cards.decoder import Decoder
from agent.readers.events import Key, Noise, NoiseReason, ReaderEvent, Status
from agent.readers.hold_off import HoldOff
from agent.readers.line_monitor import LineMonitor
from agent.readers.overflow_buffer import OverflowBuffer
from agent.readers.wiring import WiringMonitor
from agent.settings import ReaderSettings
from agent.swipe import CardRead, Swipe

_log = logging.getLogger(__name__)

# How often swipes in the overflow buffer are offered to the outbox again.
_RETRY_S = 1.0


@dataclass(slots=True)
class ReaderCounts:
    """What `status` shows of a reader. Written by its thread only, read by any."""

    state: Literal["open", "lost"] = "lost"
    resolved_device: str | None = None  # the target of the configured port while it is open
    swipes: int = 0
    repeats: int = 0
    keys_discarded: int = 0
    noise: Counter[NoiseReason] = field(default_factory=Counter)
    buffered: int = 0  # swipes in the overflow buffer, because the outbox cannot be written
    lost: int = 0  # swipes that the full overflow buffer refused
    last_swipe_boot_us: int | None = None  # on the boot clock: the system clock may be set in between
    last_rx_monotonic_s: float | None = None


class SwipePipeline:
    """Turns the events of one reader into swipes and keeps them. For the reader's thread only."""

    def __init__(
        self,
        reader: ReaderSettings,
        *,
        keep: Callable[[list[Swipe]], None],
        user_of: Callable[[str], str],
        line_monitor: LineMonitor,
    ) -> None:
        """`keep` returns once the swipes are on disk; `user_of` maps a badge id to a user id."""
        self.counts = ReaderCounts()
        self._reader = reader
        self._user_of = user_of
        self._line_monitor = line_monitor
        self._decode = Decoder(
            reader.formats,
            parity=reader.parity,
            keypad=reader.keypad,
            pin_facility_code=reader.pin_facility_code,
            pin_digits=reader.pin_digits,
            unknown_lengths=reader.unknown_lengths,
        )
        self._wiring = WiringMonitor(reader.id, keypad=reader.keypad)
        self._hold_off = HoldOff(reader.hold_off_ms)
        self._overflow = OverflowBuffer(keep, reader.id)
        self._retry_due_s: float | None = None
        self._losses = FailureLog(
            _log, f"reader {reader.id}", time.monotonic, recovery=MessageId.DISK_HAS_ROOM, reader=reader.id
        )

    def reset(self) -> None:
        """Forget the cards in hold-off: the port was reopened."""
        self._hold_off.reset()

    def process(self, events: Sequence[ReaderEvent], read_at: ClockReading, now: float) -> None:
        """Keep the swipes among these events, which were read at `read_at`; count all others.

        `now` is in seconds of the monotonic clock. A swipe that could not be kept is accepted again at
        the card's next read. Swipes are buffered while the outbox cannot be written; raises OutboxError
        for any other failure.
        """
        cards = [card for event in events if (card := self._card(event, read_at, now)) is not None]
        self._keep([self._swipe(card, read_at) for card in cards], now)

    def next_timeout(self) -> float | None:
        """When to call handle_timeout(); None while no swipe is buffered."""
        return self._retry_due_s

    def handle_timeout(self, now: float) -> bool:
        """Retry keeping the buffered swipes if that is due; True if it was. Raises OutboxError."""
        if self._retry_due_s is None or now < self._retry_due_s:
            return False
        self._keep([], now)
        return True

    def _card(self, event: ReaderEvent, read_at: ClockReading, now: float) -> CardRead | None:
        """The card of a new presentation; anything else is counted."""
        if isinstance(event, Status):
            self._wiring.observe_status(event)
            return None
        outcome = event if isinstance(event, Noise | Key) else self._decode(event)
        if outcome is not event:
            self._wiring.observe_credential(outcome)
        if isinstance(outcome, Noise):
            self.counts.noise[outcome.reason] += 1
            self._line_monitor.noise_received(now)
            return None
        if isinstance(outcome, Key):
            self.counts.keys_discarded += 1
            return None
        if not self._hold_off.admits(outcome, read_at.boot_ms):
            self.counts.repeats += 1
            return None
        return outcome

    def _swipe(self, card: CardRead, read_at: ClockReading) -> Swipe:
        badge = badge_id(self._reader.badge_id, card)
        return Swipe(
            reader_id=self._reader.id,
            zone_id=self._reader.zone_id,
            direction=self._reader.direction,
            badge_id=badge,
            user_id=self._user_of(badge),
            card=card,
            read_at=read_at,
        )

    def _keep(self, swipes: list[Swipe], now: float) -> None:
        if not swipes and not self._overflow:
            return
        try:
            kept = self._overflow.keep(swipes)
        except BaseException:
            self._release(swipes)
            raise
        self.counts.swipes += kept.stored
        if kept.error is None:
            self._losses.recovered()
        elif kept.refused:
            self.counts.lost += len(kept.refused)
            self._losses.failed(_lost(kept.refused, kept.error), MessageId.SWIPES_LOST)
            self._release(kept.refused)
        self.counts.buffered = len(self._overflow)
        self._retry_due_s = now + _RETRY_S if self._overflow else None
        if swipes:
            self.counts.last_swipe_boot_us = swipes[-1].read_at.boot_us

    def _release(self, swipes: list[Swipe]) -> None:
        """End the hold-off of these cards."""
        for swipe in swipes:
            self._hold_off.forget(swipe.card)


def _lost(swipes: list[Swipe], error: OutboxUnavailableError) -> OutboxUnavailableError:
    return OutboxUnavailableError(
        f"the memory buffer is full; {len(swipes)} more swipes were lost: {error}", hint=error.hint
    )
