"""One reader while the agent runs: its port, its timers and the loop that reads it."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Sequence
from random import random
from typing import Literal, NamedTuple

from agent.backoff import Backoff
from agent.clock.system_clock import Clock, boottime_us
from agent.errors import NotPermittedError, PortError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.readers.events import ReaderEvent
from agent.readers.line_monitor import LineMonitor
from agent.readers.port import FdStore, Port
from agent.readers.port_names import require_own_device
from agent.readers.protocols import make_protocol
from agent.readers.swipe_pipeline import ReadTime, SwipePipeline, SwipeSink
from agent.settings import ReaderSettings
from agent.swipe import LastRead

_log = logging.getLogger(__name__)

_REOPEN_FIRST_S = 0.5
_REOPEN_LAST_S = 30.0
# A port that stayed open this long had recovered; one that opens and then fails sooner has not.
_STEADY_S = 30.0
# Bound on the wait for the rest of a frame at a stop: noise may never end.
_LAST_FRAME_S = 1.0
# Up to this length the interval in which bytes arrived counts as a moment: under load a thread is that late.
_MOMENT_US = 250_000


class PreviousRun(NamedTuple):
    """What is known of the agent process before this one in the same boot; empty if there was none."""

    last_us: int = 0  # the last moment at which it ran, in microseconds of the boot-time clock
    last_reads: tuple[LastRead, ...] = ()  # of this reader, oldest first


_NO_RUN = PreviousRun()


class ReaderSession:
    """Runs one reader. run() is for one thread, stop() for any other."""

    def __init__(
        self,
        reader: ReaderSettings,
        *,
        sink: SwipeSink,
        clock: Clock,
        changed: Callable[[], None],
        fd_store: FdStore,
        previous: PreviousRun = _NO_RUN,
        all_readers: Sequence[ReaderSettings] = (),
    ) -> None:
        """`changed` is called after `counts` changed; `fd_store` holds the port that the `previous` agent
        process had open, and receives this one's. `all_readers` are those of this agent.
        """
        self.reader = reader
        self.opening_since: float | None = None  # time.monotonic() while the driver opens the port
        self._all_readers = all_readers
        self.line_monitor = LineMonitor(reader.id, expect_within_s=reader.expect_traffic_within)
        self._protocol = make_protocol(reader.protocol, reader.options)
        self._pipeline = SwipePipeline(
            reader,
            sink=sink,
            line_monitor=self.line_monitor,
            repeats_while_held=self._protocol.repeats_while_held,
        )
        self.counts = self._pipeline.counts
        self._clock = clock
        self._changed = changed
        self._fd_store = fd_store
        self._previous = previous
        self._last_read = ReadTime(clock.now())
        self._stopping = threading.Event()
        self._port: Port | None = None
        self._port_guard = threading.Lock()
        self._backoff = Backoff(first=_REOPEN_FIRST_S, cap=_REOPEN_LAST_S, random=random)
        self._failures = FailureLog(
            _log, f"reader {reader.id}", time.monotonic, recovery=MessageId.READER_BACK, reader=reader.id
        )

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
                self._failures.failed(error, MessageId.READER_LOST)
                self.line_monitor.port_lost()
                self.counts.problem = error
                self._set_state("lost", None)
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
        port = self._open(busy)
        self._fd_store.put(port.fileno())
        with self._port_guard:
            self._port = port
        # Bytes received before the port was lost belong to no frame that arrives now.
        self._protocol.reset()
        self._pipeline.reset()
        # Once: the cards that were in the field when the previous process ended may still be there.
        self._pipeline.seed(self._previous.last_reads)
        self._previous = _NO_RUN
        opened_s = time.monotonic()
        self.line_monitor.port_opened(opened_s)
        try:
            _log.info(
                "reader %s: open on %s (%s)",
                self.reader.id,
                _device_path(port),
                self.reader.protocol,
                extra=fields(reader=self.reader.id),
            )
            self._failures.recovered()
            self.counts.problem = None
            self._set_state("open", port.resolved)
            while not self._stopping.is_set():
                self._step(port)
            self._read_last(port)
        finally:
            if time.monotonic() - opened_s >= _STEADY_S:
                self._backoff.reset()
            with self._port_guard:
                self._port = None
                port.close()

    def _open(self, busy: Callable[[bool], None]) -> Port:
        require_own_device(self.reader, self._all_readers)
        self.opening_since = time.monotonic()
        busy(False)
        try:
            return Port(
                str(self.reader.port),
                self._protocol.line.of(self.reader),
                held=self._fd_store.take(),
                held_since_us=self._previous.last_us,
                busy=busy,
            )
        finally:
            busy(True)
            self.opening_since = None

    def _step(self, port: Port) -> None:
        """Send the request that is due; wait for bytes or the next timer; process what has happened."""
        now_s = time.monotonic()
        if request := self._protocol.data_to_send(now_s):
            port.write(request)
        wait_s = min(self._timer_wait_s(now_s), self.line_monitor.wait_s(now_s))
        data = port.read(None if wait_s == math.inf else wait_s)
        now_s = time.monotonic()
        if self.line_monitor.update(now_s):
            self._changed()
        if data:
            self._receive(data, now_s, port)
        elif not self._stopping.is_set():
            self._handle_timers(now_s)

    def _read_last(self, port: Port) -> None:
        """After a stop: process the bytes that have already arrived, and wait for the rest of a frame."""
        now_s = time.monotonic()
        ends_s = now_s + _LAST_FRAME_S
        while now_s < ends_s:
            wait_s = self._timer_wait_s(now_s)
            data = port.read_rest(0.0 if wait_s == math.inf else min(wait_s, ends_s - now_s))
            now_s = time.monotonic()
            if not data:
                break
            self._receive(data, now_s, port)
        self._process(self._protocol.handle_timeout(math.inf), now_s)

    def _timer_wait_s(self, now_s: float) -> float:
        """Seconds until the protocol's next timer; infinite if none runs."""
        timeout = self._protocol.next_timeout()
        return math.inf if timeout is None else max(0.0, timeout - now_s)

    def _receive(self, data: bytes, now_s: float, port: Port) -> None:
        read_at = self._clock.now()  # before parsing, which takes time
        self._last_read = ReadTime(read_at, _age_us(port))
        self.counts.last_rx_monotonic_s = now_s
        self.line_monitor.bytes_received(now_s)
        self._backoff.reset()
        self._process(self._protocol.receive_data(data, now_s), now_s)

    def _handle_timers(self, now_s: float) -> None:
        events = self._protocol.handle_timeout(now_s)
        if events:
            self._process(events, now_s)

    def _process(self, events: Sequence[ReaderEvent], now_s: float) -> None:
        """The events of the last bytes read, also where only a timer completed them."""
        self._pipeline.process(events, self._last_read, now_s)
        self._changed()

    def _set_state(self, state: Literal["open", "lost"], resolved_device: str | None) -> None:
        self.counts.resolved_device = resolved_device
        if self.counts.state != state:
            self.counts.state = state
            self._changed()


def _age_us(port: Port) -> int:
    """How long before now the bytes of the last read may have arrived; 0 if that is as good as now."""
    age_us = boottime_us() - port.since_us
    return age_us if age_us > _MOMENT_US else 0


def _device_path(port: Port) -> str:
    """The configured port and the device it resolves to."""
    return port.device if port.resolved == port.device else f"{port.device} -> {port.resolved}"
