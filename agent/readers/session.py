"""One reader for as long as the agent runs: port, protocol, decoding, hold-off, and into the outbox."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import random
from typing import Literal

from agent.backoff import Backoff
from agent.clock import Clock
from agent.errors import NotPermittedError, OutboxFullError, PortError
from agent.faultlog import FaultLog
from agent.readers.badge import badge_id
from agent.readers.holdoff import HoldOff
from agent.readers.port import Port
from agent.readers.protocol import LineSettings, WireProtocol
from agent.readers.unkept import Unkept
from agent.readers.wiegand import ParityPolicy, decode
from agent.swipe import CardRead, Frame, Instant, Key, Noise, Reason, Swipe, Word

_log = logging.getLogger(__name__)

_REOPEN_FIRST_S = 0.5
_REOPEN_LAST_S = 30.0
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


@dataclass(slots=True)
class ReaderCounts:
    """What `status` shows of a reader. Written by its thread only, read by any."""

    state: Literal["open", "lost"] = "lost"
    swipes: int = 0
    repeats: int = 0
    keys_discarded: int = 0
    noise: Counter[Reason] = field(default_factory=Counter)
    unkept: int = 0  # swipes that a full disk has no room for
    lost: int = 0  # swipes for which there was no room in memory either
    last_swipe_wall_us: int | None = None
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
    ) -> None:
        """`keep` returns when the swipes are on disk; `changed` is told when counts() has news."""
        self.reader = reader
        self.counts = ReaderCounts()
        self._protocol = make_protocol()
        self._hold_off = HoldOff(reader.hold_off_ms)
        self._unkept = Unkept(keep, reader.id)
        self._user_of = user_of
        self._clock = clock
        self._changed = changed
        self._stopping = threading.Event()
        self._port: Port | None = None
        self._port_guard = threading.Lock()
        self._backoff = Backoff(first=_REOPEN_FIRST_S, cap=_REOPEN_LAST_S, random=random)
        self._faults = FaultLog(_log, f"reader {reader.id}", time.monotonic)
        self._disk_faults = FaultLog(_log, f"reader {reader.id}", time.monotonic)

    def run(self, busy: Callable[[bool], None]) -> None:
        """Read until stop(). A lost port is opened again; OutboxError from `keep` passes.

        `busy` is told True before work and False before a wait, so that a hung thread can be seen.
        """
        while not self._stopping.is_set():
            try:
                self._read_until_lost(busy)
            except (PortError, NotPermittedError) as error:
                self._faults.failed(error)
                self._set_state("lost")
                self._keep_all([])
                busy(False)
                self._stopping.wait(self._backoff.next())

    def stop(self) -> None:
        """Make run() return soon."""
        self._stopping.set()
        with self._port_guard:
            if self._port is not None:
                self._port.stop()

    def _read_until_lost(self, busy: Callable[[bool], None]) -> None:
        port = Port(self.reader.port, self.reader.line)
        with self._port_guard:
            self._port = port
        # What was half received before the port was lost belongs to no frame that comes now.
        self._protocol.reset()
        self._hold_off.reset()
        try:
            _log.info("reader %s: open on %s (%s)", self.reader.id, port.device, self.reader.protocol)
            self._faults.recovered()
            self._backoff.reset()
            self._set_state("open")
            while True:
                stopping = self._stopping.is_set()
                busy(False)
                data = port.read(self._silence_s(stopping=stopping))
                busy(True)
                self._take(data)
                if stopping and not data:
                    return  # only now: what had arrived before the stop is kept too
        finally:
            with self._port_guard:
                self._port = None
                port.close()

    def _silence_s(self, *, stopping: bool) -> float | None:
        """How long a read may wait: for the rest of a frame, else for ever, or not at all when stopping."""
        if self._protocol.partial:
            return self._protocol.silence_ms / 1000
        if stopping:
            return 0.0
        return _UNKEPT_RETRY_S if self._unkept else None

    def _set_state(self, state: Literal["open", "lost"]) -> None:
        if self.counts.state != state:
            self.counts.state = state
            self._changed()

    # --- from bytes to the outbox ----------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        if self._stopping.is_set() and not data:
            return
        read_at = self._clock.now()
        if data:
            self.counts.last_rx_monotonic_s = time.monotonic()
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
            self._disk_faults.failed(error)
            self._forget(swipes)
        except BaseException:
            self._forget(swipes)
            raise
        else:
            self._disk_faults.recovered()
        self.counts.unkept = len(self._unkept)
        if swipes:
            self.counts.last_swipe_wall_us = swipes[-1].read_at.wall_us

    def _forget(self, swipes: list[Swipe]) -> None:
        for swipe in swipes:
            self._hold_off.forget(swipe.card)

    def _card(self, frame: Frame, read_at: Instant) -> CardRead | None:
        """The card to keep, or None for noise, keys and the repeats of a held card: those are counted."""
        outcome = (
            decode(frame, self.reader.formats, parity=self.reader.parity)
            if isinstance(frame, Word)
            else frame
        )
        if isinstance(outcome, Noise):
            self.counts.noise[outcome.reason] += 1
            return None
        if isinstance(outcome, Key):
            self.counts.keys_discarded += 1
            return None
        if not self._hold_off.admits(outcome, read_at.boot_ms):
            self.counts.repeats += 1
            return None
        return outcome

    def _swipe(self, card: CardRead, read_at: Instant) -> Swipe:
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
