"""From reader events to queued swipes: decode, hold-off, badge id; and the counters of one reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from agent.clock.reading import ClockReading
from agent.errors import NotPermittedError, PortError
from agent.keys.site_key import SiteKey
from agent.readers.cards.badge_id import badge_id
from agent.readers.cards.cardholders import UNKNOWN
from agent.readers.cards.decoder import Decoder
from agent.readers.conditions import ConditionMonitor
from agent.readers.events import ConditionChange, Key, Noise, NoiseReason, ReaderEvent, Status
from agent.readers.flood_monitor import FloodMonitor
from agent.readers.hold_off import HoldOff
from agent.readers.line_monitor import LineMonitor
from agent.readers.uart import LineErrors
from agent.readers.wiring import WiringMonitor
from agent.settings import ReaderSettings
from agent.swipe import CardRead, LastRead, Swipe


@dataclass(slots=True)
class ReaderCounts:
    """What `status` shows of a reader. Written by its thread only, read by any."""

    state: Literal["open", "lost"] = "lost"
    resolved_device: str | None = None  # the target of the configured port while it is open
    problem: PortError | NotPermittedError | None = None  # why the port is not open
    repeats: int = 0
    keys_discarded: int = 0
    noise: Counter[NoiseReason] = field(default_factory=Counter)
    line_errors: LineErrors | None = None  # since the start; None: the port has no counters
    last_repeat_boot_us: int | None = None
    last_swipe_boot_us: int | None = None  # on the boot clock: the system clock may be set in between
    last_rx_monotonic_s: float | None = None


class SwipeSink(Protocol):
    """Where a reader's swipes go; no call waits. The queue in front of the outbox implements it."""

    def put(self, swipe: Swipe) -> None:
        """Take a swipe."""

    def set_flooding(self, reader_id: str, *, flooding: bool) -> None:
        """The reader sends more swipes than people can make, or no longer."""

    def take_refused(self, reader_id: str) -> list[Swipe]:
        """The reader's swipes that could not be kept, since the last call."""


# Up to this length the interval in which bytes arrived counts as a moment: under load a thread is that late.
MOMENT_US = 250_000


class ReadTime(NamedTuple):
    """When bytes arrived: within `age_us` microseconds before `at`; 0 if they were read as they arrived."""

    at: ClockReading
    age_us: int = 0


class SwipePipeline:
    """Turns the events of one reader into swipes and queues them. For the reader's thread only."""

    def __init__(
        self,
        reader: ReaderSettings,
        *,
        sink: SwipeSink,
        line_monitor: LineMonitor,
        repeats_while_held: bool,
        site_key: SiteKey | None = None,
    ) -> None:
        """`site_key`: replace card numbers by pseudonyms, before anything is remembered or queued."""
        self.counts = ReaderCounts()
        self._reader = reader
        self._sink = sink
        self._line_monitor = line_monitor
        self._site_key = site_key
        self._decode = Decoder(
            reader.formats,
            parity=reader.parity,
            keypad=reader.keypad,
            pin_facility_code=reader.pin_facility_code,
            pin_digits=reader.pin_digits,
            unknown_lengths=reader.unknown_lengths,
        )
        self._wiring = WiringMonitor(reader.id, keypad=reader.keypad)
        self.conditions = ConditionMonitor(reader.id)
        self.flood_monitor = FloodMonitor(reader.id)
        self._hold_off = HoldOff(reader.hold_off_ms, repeats_while_held=repeats_while_held)

    def reset(self) -> None:
        """Forget the cards in hold-off and what the reader reported: the port was reopened."""
        self._hold_off.reset()
        self.conditions.reset()

    def seed(self, last_reads: Sequence[LastRead], last_repeat_ms: int) -> None:
        """Hold off the cards that the previous process read last, oldest first.

        `last_repeat_ms`: when it last read a repeat; of the newest card, or of one read with it.
        """
        for last in last_reads:
            is_newest = last_reads[-1].boot_ms - last.boot_ms < self._reader.hold_off_ms
            at_ms = max(last.boot_ms, last_repeat_ms) if is_newest else last.boot_ms
            self._hold_off.seed(last.bits, last.raw, at_ms)

    def process(self, events: Sequence[ReaderEvent], read: ReadTime, now: float) -> None:
        """Queue the swipes among these events, whose bytes arrived at `read`; count all others.

        `now` is in seconds of the monotonic clock. A card whose swipe was refused since the last call is
        no longer held off.
        """
        for refused in self._sink.take_refused(self._reader.id):
            self._hold_off.forget(refused.card)
        for event in events:
            decoded = self._card(event, now)
            if decoded is None:
                continue
            badge, card = self._named(decoded)
            if self._hold_off.admits(card, read.at.boot_ms, age_ms=read.age_us // 1_000):
                if self.flood_monitor.swipe_read(now):
                    self._flood_changed()
                self._sink.put(self._swipe(badge, card, read))
                self.counts.last_swipe_boot_us = read.at.boot_us
            else:
                self.counts.repeats += 1
                self.counts.last_repeat_boot_us = read.at.boot_us

    def update(self, now: float) -> bool:
        """Apply the passing of time, in seconds of the monotonic clock; True if a state changed."""
        changed = self.flood_monitor.update(now)
        if changed:
            self._flood_changed()
        return changed

    def _flood_changed(self) -> None:
        self._sink.set_flooding(self._reader.id, flooding=self.flood_monitor.flooding)

    def _card(self, event: ReaderEvent, now: float) -> CardRead | None:
        """The card of an event; anything else is counted."""
        if isinstance(event, ConditionChange):
            self.conditions.observe(event)
            return None
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
        return outcome

    def _named(self, card: CardRead) -> tuple[str, CardRead]:
        """The badge id and the card; with a site key the pseudonyms of both, and no number."""
        badge = badge_id(self._reader.badge_id, card)
        if self._site_key is None:
            return badge, card
        raw = self._site_key.card(card.bits, card.raw)
        hidden = card._replace(raw=raw, facility_code=None, card_number=None, issue=None, oem=None)
        return self._site_key.badge(badge), hidden

    def _swipe(self, badge: str, card: CardRead, read: ReadTime) -> Swipe:
        return Swipe(
            reader_id=self._reader.id,
            zone_id=self._reader.zone_id,
            direction=self._reader.direction,
            badge_id=badge,
            user_id=UNKNOWN,  # looked up when the swipe is stored: a reading thread reads no file
            card=card,
            read_at=read.at,
            age_us=read.age_us,
        )
