"""One serial port while the agent runs: its readers, their timers and the loop that reads it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from random import random
from types import MappingProxyType
from typing import NamedTuple

from agent.backoff import Backoff
from agent.clock.system_clock import Clock, boottime_us
from agent.errors import NotPermittedError, PortError
from agent.keys.reader_keys import ReaderKeys
from agent.keys.site_key import SiteKey
from agent.log.message_ids import READERS_SEPARATOR
from agent.readers.port import FdStore, Port
from agent.readers.port_names import require_own_device
from agent.readers.port_protocols import make_protocols
from agent.readers.reader import Reader
from agent.readers.reader_light import Durability
from agent.readers.swipe_pipeline import MOMENT_US, ReadTime, SwipeSink
from agent.settings import ReaderSettings
from agent.swipe import LastRead

_REOPEN_FIRST_S = 0.5
_REOPEN_LAST_S = 30.0
# A port that stayed open this long had recovered; one that opens and then fails sooner has not.
_STEADY_S = 30.0
# Bound on the wait for the rest of a frame at a stop: noise may never end.
_LAST_FRAME_S = 1.0


class PreviousRun(NamedTuple):
    """What is known of the agent process before this one in the same boot; empty if there was none."""

    last_us: int = 0  # the last moment at which it ran, in microseconds of the boot-time clock
    last_reads: Mapping[str, Sequence[LastRead]] = MappingProxyType({})  # by reader id, oldest first
    last_repeats_us: Mapping[str, int] = MappingProxyType({})  # of held cards, by reader id, since boot


_NO_RUN = PreviousRun()
_NO_KEYS = ReaderKeys()


class PortSession:
    """Runs the readers of one port. run() is for one thread, stop() for any other."""

    def __init__(
        self,
        readers: Sequence[ReaderSettings],
        *,
        sink: SwipeSink,
        clock: Clock,
        changed: Callable[[], None],
        fd_store: FdStore,
        previous: PreviousRun = _NO_RUN,
        site_key: SiteKey | None = None,
        reader_keys: ReaderKeys = _NO_KEYS,
        durability: Durability | None = None,
        all_readers: Sequence[ReaderSettings] = (),
    ) -> None:
        """`readers` have the same port, line settings and protocol. `changed` is called after the counts of
        one changed; `fd_store` holds the port that the `previous` agent process had open, and receives this
        one's. With `site_key`, swipes have pseudonyms. `reader_keys` and `durability` are for readers with
        encryption and for those whose light the agent manages. `all_readers` are the first ones of each port.
        """
        self.readers = [
            Reader(reader, protocol, sink=sink, site_key=site_key, durability=durability)
            for reader, protocol in zip(readers, make_protocols(readers, reader_keys), strict=True)
        ]
        self.ids = READERS_SEPARATOR.join(reader.id for reader in readers)
        self.device = str(readers[0].port)
        self.opening_since: float | None = None  # time.monotonic() while the driver opens the port
        self._all_readers = all_readers
        self._line = self.readers[0].protocol.line.of(readers[0])
        self._clock = clock
        self._changed = changed
        self._fd_store = fd_store
        self._previous = previous
        self._is_osdp = all(reader.osdp is not None for reader in self.readers)
        self._last_read: ReadTime | None = ReadTime(clock.now())
        self._age_us = 0  # of the bytes of the last read
        self._stopping = threading.Event()
        self._port: Port | None = None
        self._port_guard = threading.Lock()
        self._backoff = Backoff(first=_REOPEN_FIRST_S, cap=_REOPEN_LAST_S, random=random)

    def run(self, busy: Callable[[bool], None]) -> None:
        """Read until stop(). A lost port is reopened.

        `busy` is called with False before each wait and with True after it, so that the watchdog can
        recognise a hung thread. Opening the port counts as a wait: a driver that does not return from it
        stops this reader only, and is reported from `opening_since`.
        """
        while not self._stopping.is_set():
            try:
                self._read_until_lost(busy)
            except (PortError, NotPermittedError) as error:
                self._fd_store.clear()
                were_open = [reader.port_lost(error) for reader in self.readers]
                if any(were_open):
                    self._changed()
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
        port = self.begin(busy)
        opened_s = time.monotonic()
        try:
            while not self._stopping.is_set():
                self.step(port)
            self.read_last(port)
        finally:
            if time.monotonic() - opened_s >= _STEADY_S:
                self._backoff.reset()
            # Closed outside of the guard: a driver may take long, and stop() needs the guard.
            with self._port_guard:
                self._port = None
            port.close()

    def begin(self, busy: Callable[[bool], None]) -> Port:
        """Open the port and begin the readers. Raises PortError, NotPermittedError."""
        port = self._open(busy)
        try:
            self._fd_store.put(port.fileno())
            with self._port_guard:
                self._port = port
            self._begin_readers(port)
        except BaseException:
            port.close()
            raise
        return port

    def _begin_readers(self, port: Port) -> None:
        opened_s = time.monotonic()
        for reader in self.readers:
            # Once: the cards that were in the field when the previous process ended may still be there.
            last_reads = self._previous.last_reads.get(reader.settings.id, ())
            last_repeat_ms = self._previous.last_repeats_us.get(reader.settings.id, 0) // 1_000
            reader.port_opened(port.resolved, opened_s, last_reads, last_repeat_ms)
        self._previous = _NO_RUN
        self._changed()

    def _open(self, busy: Callable[[bool], None]) -> Port:
        require_own_device(self.readers[0].settings, self._all_readers)
        self.opening_since = time.monotonic()
        repeats_us = (self._previous.last_repeats_us.get(reader.settings.id, 0) for reader in self.readers)
        busy(False)
        try:
            return Port(
                self.device,
                self._line,
                held=self._fd_store.take(),
                held_since_us=max(self._previous.last_us, *repeats_us),
                busy=busy,
            )
        finally:
            busy(True)
            self.opening_since = None

    def step(self, port: Port) -> None:
        """Send the requests that are due; wait for bytes or the next timer; process what has happened."""
        now_s = time.monotonic()
        for reader in self.readers:
            if request := reader.data_to_send(now_s):
                port.write(request)
        wait_s = min(reader.wait_s(now_s) for reader in self.readers)
        data = port.read(None if wait_s == math.inf else wait_s)
        now_s = time.monotonic()
        changes = [reader.update(now_s) for reader in self.readers]
        if any(changes):
            self._changed()
        if data:
            self._receive(data, now_s, port)
            # An adapter delivers a reply at 9600 baud byte by byte. The readers of a port share one line, so
            # that the first one knows when its reply can be complete.
            if rest_s := self.readers[0].rest_s(now_s):
                port.pause(rest_s)
        elif not self._stopping.is_set():
            self._handle_timers(now_s, now_s)

    def read_last(self, port: Port) -> None:
        """After a stop: process the bytes that have already arrived, and wait for the rest of a frame."""
        now_s = time.monotonic()
        ends_s = now_s + _LAST_FRAME_S
        while now_s < ends_s:
            wait_s = min(reader.timer_wait_s(now_s) for reader in self.readers)
            data = port.read_rest(0.0 if wait_s == math.inf else min(wait_s, ends_s - now_s))
            now_s = time.monotonic()
            if not data:
                break
            self._receive(data, now_s, port)
        self._handle_timers(math.inf, now_s)

    def _receive(self, data: bytes, now_s: float, port: Port) -> None:
        self._last_read, self._age_us = None, _age_us(port)
        if not self._is_osdp:
            self._read_time()  # before parsing, which takes time
        errors = port.new_errors()
        self._backoff.reset()
        changes = [reader.receive(data, errors, self._read_time, now_s) for reader in self.readers]
        if any(changes):
            self._changed()

    def _handle_timers(self, timeout_s: float, now_s: float) -> None:
        """Process what timers complete, with the time of the last bytes read."""
        changes = [reader.handle_timeout(timeout_s, self._read_time, now_s) for reader in self.readers]
        if any(changes):
            self._changed()

    def _read_time(self) -> ReadTime:
        """When the last bytes were read. Of OSDP, where most replies report nothing, it is noted at need."""
        if self._last_read is None:
            self._last_read = ReadTime(self._clock.now(), self._age_us)
        return self._last_read


def _age_us(port: Port) -> int:
    """How long before now the bytes of the last read may have arrived; 0 if that is as good as now."""
    age_us = boottime_us() - port.since_us
    return age_us if age_us > MOMENT_US else 0
