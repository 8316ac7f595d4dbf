"""One reader for as long as the agent runs: port, protocol, decoding, hold-off, and into the outbox."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Literal

from agent.backoff import Backoff
from agent.clock.reading import ClockReading
from agent.clock.system_clock import Clock
from agent.errors import NotPermittedError, OutboxFullError, PortError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.readers.cards.badge_id import badge_id
from agent.readers.cards.decoder import Decoder
from agent.readers.events import Key, Noise, NoiseReason, ReaderEvent, Status
from agent.readers.hold_off import HoldOff
from agent.readers.line_monitor import LineMonitor
from agent.readers.overflow_buffer import OverflowBuffer
from agent.readers.port import FdStore, Port
from agent.readers.protocol import LineSettings, Poller, WireProtocol
from agent.readers.wiring import WiringMonitor
from agent.settings import Keypad, ParityPolicy
from agent.swipe import CardRead, Swipe

_log = logging.getLogger(__name__)

_REOPEN_FIRST_S = 0.5
_REOPEN_LAST_S = 30.0
# A port that stayed open this long had recovered; one that opens and fails at once has not.
_STEADY_S = 30.0
# The rest of a frame is waited for at a stop, but not for ever: noise has no end.
_LAST_FRAME_S = 1.0
# While swipes wait for room on the disk, look for it so often.
_UNKEPT_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Reader:
    """What the installer said about one reader."""

    id: str
    zone_id: str
    direction: str | None
    port: str
    protocol: str
    line: LineSettings
    formats: Sequence[str]
    parity: ParityPolicy
    badge_id: str
    hold_off_ms: int
    keypad: Keypad = "none"
    pin_facility_code: int = 0
    expect_traffic_within_s: float | None = None


@dataclass(slots=True)
class ReaderCounts:
    """What `status` shows of a reader. Written by its thread only, read by any."""

    state: Literal["open", "lost"] = "lost"
    resolved_device: str | None = None  # what the configured port leads to while it is open
    swipes: int = 0
    repeats: int = 0
    keys_discarded: int = 0
    noise: Counter[NoiseReason] = field(default_factory=Counter)
    unkept: int = 0  # swipes that a full disk has no room for
    lost: int = 0  # swipes for which there was no room in memory either
    last_swipe_boot_us: int | None = None  # of the boot-time clock: the other may be set in between
    last_rx_monotonic_s: float | None = None


class ReaderSession:
    """Runs one reader. run() is for one thread, stop() for any other."""

    def __init__(
        self,
        reader: Reader,
        make_protocol: Callable[[], WireProtocol],
        *,
        keep: Callable[[list[Swipe]], None],
        user_of: Callable[[str], str],
        clock: Clock,
        changed: Callable[[], None],
        shelf: FdStore,
    ) -> None:
        """`keep` returns when the swipes are on disk; `changed` is told when counts() has news;
        `shelf` has the port that the agent before this one had open, and is given this one's.
        """
        self.reader = reader
        self.counts = ReaderCounts()
        self._protocol = make_protocol()
        self._asking = Poller(self._protocol.polling) if self._protocol.polling else None
        self._decode = Decoder(
            reader.formats,
            parity=reader.parity,
            keypad=reader.keypad,
            pin_facility_code=reader.pin_facility_code,
        )
        self.traffic = LineMonitor(reader.id, expect_within_s=reader.expect_traffic_within_s)
        self._diagnosis = WiringMonitor(reader.id, keypad=reader.keypad)
        self._hold_off = HoldOff(reader.hold_off_ms)
        self._unkept = OverflowBuffer(keep, reader.id)
        self._user_of = user_of
        self._clock = clock
        self._changed = changed
        self._shelf = shelf
        self._stopping = threading.Event()
        self._port: Port | None = None
        self._port_guard = threading.Lock()
        self._backoff = Backoff(first=_REOPEN_FIRST_S, cap=_REOPEN_LAST_S, random=random)
        subject = f"reader {reader.id}"
        self._faults = FailureLog(
            _log, subject, time.monotonic, recovery=MessageId.READER_BACK, reader=reader.id
        )
        self._disk_faults = FailureLog(
            _log, subject, time.monotonic, recovery=MessageId.DISK_HAS_ROOM, reader=reader.id
        )

    def run(self, busy: Callable[[bool], None]) -> None:
        """Read until stop(). A lost port is opened again; OutboxError from `keep` passes.

        `busy` is told False before a wait and True after it, so that a hung thread can be seen: whatever
        is no wait is work, the opening of the port as well.
        """
        while not self._stopping.is_set():
            try:
                self._read_until_lost(busy)
            except (PortError, NotPermittedError) as error:
                self._shelf.clear()
                self._faults.failed(error, MessageId.READER_LOST)
                self.traffic.lost()
                self._set_state("lost", None)
                self._keep_all([])
                busy(False)
                self._stopping.wait(self._backoff.next())
                busy(True)

    def stop(self) -> None:
        """Make run() return soon."""
        self._stopping.set()
        with self._port_guard:
            if self._port is not None:
                self._port.stop()

    def _read_until_lost(self, busy: Callable[[bool], None]) -> None:
        port = Port(self.reader.port, self.reader.line, held=self._shelf.take(), busy=busy)
        self._shelf.put(port.fileno())
        with self._port_guard:
            self._port = port
        # What was half received before the port was lost belongs to no frame that comes now.
        self._protocol.reset()
        self._hold_off.reset()
        opened_s = time.monotonic()
        self.traffic.opened(opened_s)
        try:
            _log.info(
                "reader %s: open on %s (%s)",
                self.reader.id,
                _way(port),
                self.reader.protocol,
                extra=fields(reader=self.reader.id),
            )
            self._faults.recovered()
            self._set_state("open", port.resolved)
            while not self._stopping.is_set():
                data = self._receive(port, self._silence_s())
                if data or not self._stopping.is_set():
                    self._take(data)
            self._read_last(port)
        finally:
            if time.monotonic() - opened_s >= _STEADY_S:
                self._backoff.reset()
            with self._port_guard:
                self._port = None
                port.close()

    def _read_last(self, port: Port) -> None:
        """After a stop: what had arrived before it is kept too, and a frame that had begun."""
        ends_s = time.monotonic() + _LAST_FRAME_S
        data = b"more"
        while data and time.monotonic() < ends_s:
            data = port.read_rest(self._silence_s() or 0.0)
            self._take(data)

    def _receive(self, port: Port, timeout_s: float | None) -> bytes:
        """port.read(), and meanwhile the questions of a polled protocol and what time alone tells."""
        now_s = time.monotonic()
        ends_s = math.inf if timeout_s is None else now_s + timeout_s
        while True:
            wait_s = min(self.traffic.wait_s(now_s), ends_s - now_s)
            if self._asking is not None:
                port.write(self._asking.due(now_s))
                wait_s = min(wait_s, self._asking.wait_s(now_s))
            data = port.read(None if wait_s == math.inf else max(0.0, wait_s))
            now_s = time.monotonic()
            if self.traffic.look(now_s):
                self._changed()
            if data or now_s >= ends_s or self._stopping.is_set():
                return data

    def _silence_s(self) -> float | None:
        """How long a read may wait: for the rest of a frame, for room on the disk, else for ever."""
        if self._protocol.partial:
            return self._protocol.silence_ms / 1000
        return _UNKEPT_RETRY_S if self._unkept else None

    def _set_state(self, state: Literal["open", "lost"], resolved_device: str | None) -> None:
        self.counts.resolved_device = resolved_device
        if self.counts.state != state:
            self.counts.state = state
            self._changed()

    # --- from bytes to the outbox ----------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        read_at = self._clock.now()
        if data:
            now_s = time.monotonic()
            self.counts.last_rx_monotonic_s = now_s
            self.traffic.heard(now_s)
            self._backoff.reset()
        frames = self._protocol.feed(data) if data else self._protocol.silence()
        cards = [card for frame in frames if (card := self._card(frame, read_at)) is not None]
        self._keep_all([self._swipe(card, read_at) for card in cards])
        self._changed()

    def _keep_all(self, swipes: list[Swipe]) -> None:
        """Keep these and those that wait for room; what cannot be kept is admitted at its next read."""
        if not swipes and not self._unkept:
            return
        try:
            self.counts.swipes += self._unkept.keep(swipes)
        except OutboxFullError as error:
            self.counts.lost += len(swipes)
            self._disk_faults.failed(error, MessageId.SWIPES_LOST)
            self._forget(swipes)
        except BaseException:
            self._forget(swipes)
            raise
        else:
            self._disk_faults.recovered()
        self.counts.unkept = len(self._unkept)
        if swipes:
            self.counts.last_swipe_boot_us = swipes[-1].read_at.boot_us

    def _forget(self, swipes: list[Swipe]) -> None:
        for swipe in swipes:
            self._hold_off.forget(swipe.card)

    def _card(self, frame: ReaderEvent, read_at: ClockReading) -> CardRead | None:
        """The card to keep, if it is one; noise, keys and the repeats of a held card are counted."""
        if isinstance(frame, Status):
            self._diagnosis.observe_status(frame)
            return None
        outcome = frame if isinstance(frame, Noise | Key) else self._decode(frame)
        if outcome is not frame:
            self._diagnosis.observe_credential(outcome)
        if isinstance(outcome, Noise):
            self.counts.noise[outcome.reason] += 1
            self.traffic.heard_noise(time.monotonic())
            return None
        if isinstance(outcome, Key):
            self.counts.keys_discarded += 1
            return None
        if not self._hold_off.admits(outcome, read_at.boot_ms):
            self.counts.repeats += 1
            return None
        return outcome

    def _swipe(self, card: CardRead, read_at: ClockReading) -> Swipe:
        badge = badge_id(self.reader.badge_id, card)
        return Swipe(
            reader_id=self.reader.id,
            zone_id=self.reader.zone_id,
            direction=self.reader.direction,
            badge_id=badge,
            user_id=self._user_of(badge),
            card=card,
            read_at=read_at,
        )


def _way(port: Port) -> str:
    """The port as it was configured, and the device behind it."""
    return port.device if port.resolved == port.device else f"{port.device} -> {port.resolved}"
