"""One reader of a port: the protocol that parses the port's bytes, and the way of its swipes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence

from agent.errors import NotPermittedError, PortError
from agent.keys.site_key import SiteKey
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.readers.damaged_frames import DamagedFrames
from agent.readers.events import Condition, ConditionChange, ReaderEvent
from agent.readers.held_bytes import HeldBytes
from agent.readers.line_monitor import LineMonitor
from agent.readers.port_protocols import osdp_of
from agent.readers.protocol import WireProtocol
from agent.readers.reader_light import Durability, ReaderLight
from agent.readers.swipe_pipeline import ReadTime, SwipePipeline, SwipeSink
from agent.readers.uart import LineErrors
from agent.settings import ReaderSettings
from agent.swipe import LastRead

_log = logging.getLogger(__name__)

_NO_ERRORS = LineErrors()


class Reader:
    """One [[readers]] table at work. For the thread of its port; `counts` may be read by any.

    Readers that share a port each parse all of its bytes; an option of the protocol selects their own lines,
    or the reader whose turn it is takes them.
    """

    def __init__(
        self,
        settings: ReaderSettings,
        protocol: WireProtocol,
        *,
        sink: SwipeSink,
        site_key: SiteKey | None = None,
        durability: Durability | None = None,
    ) -> None:
        """`durability`: what the light of a reader shows, if the agent manages it."""
        self.settings = settings
        self.protocol = protocol
        self.osdp = osdp_of(protocol)
        self._light: ReaderLight | None = None
        if self.osdp is not None and self.osdp.amber_after_s is not None and durability is not None:
            self._light = ReaderLight(
                settings.id, self.osdp.link.lights, durability, amber_after_s=self.osdp.amber_after_s
            )
        self.line_monitor = LineMonitor(settings.id, expect_within_s=settings.expect_traffic_within)
        self._pipeline = SwipePipeline(
            settings,
            sink=sink,
            line_monitor=self.line_monitor,
            repeats_while_held=self.protocol.repeats_while_held,
            site_key=site_key,
        )
        self.counts = self._pipeline.counts
        self.conditions = self._pipeline.conditions
        self.flood_monitor = self._pipeline.flood_monitor
        # When the monitors have work if no event comes before. Bytes only make that later, except the first
        # ones after a silence.
        self._monitors_due_s = 0.0
        self._damaged = DamagedFrames()
        self._held = HeldBytes()
        self._failures = FailureLog(
            _log, f"reader {settings.id}", time.monotonic, recovery=MessageId.READER_BACK, reader=settings.id
        )

    def port_opened(
        self, resolved_device: str, now_s: float, last_reads: Sequence[LastRead], last_repeat_ms: int
    ) -> None:
        """The port was opened: bytes received before belong to no frame that arrives now.

        `last_reads` are the cards that may still be in the field, oldest first; `last_repeat_ms` is when a
        repeat of a held card was last read, in milliseconds since boot.
        """
        self.protocol.reset()
        self._damaged.reset()
        self._held.reset()
        self._pipeline.reset()
        self._pipeline.seed(last_reads, last_repeat_ms)
        self.line_monitor.port_opened(now_s)
        self._schedule_monitors(now_s)
        port = str(self.settings.port)
        _log.info(
            "reader %s: open on %s (%s)",
            self.settings.id,
            port if port == resolved_device else f"{port} -> {resolved_device}",
            self.settings.protocol,
            extra=fields(reader=self.settings.id),
        )
        self._failures.recovered()
        self.counts.resolved_device = resolved_device
        self.counts.problem = None
        self.counts.state = "open"
        if self.osdp is not None and self.osdp.lacks_key:
            self.conditions.observe(ConditionChange(Condition.NO_KEY, active=True))

    def port_lost(self, error: PortError | NotPermittedError) -> bool:
        """The port was lost, or cannot be opened; True if it was open before."""
        was_open = self.counts.state == "open"
        self._failures.failed(error, MessageId.READER_LOST)
        self.line_monitor.port_lost()
        self._pipeline.update(time.monotonic())
        self.conditions.reset()
        self.counts.resolved_device = None
        self.counts.problem = error
        self.counts.state = "lost"
        return was_open

    def wait_s(self, now_s: float) -> float:
        """Seconds until a timer of the protocol or of a monitor expires; infinite if none runs."""
        return min(self.timer_wait_s(now_s), max(0.0, self._monitors_due_s - now_s))

    def update(self, now_s: float) -> bool:
        """Apply the passing of time to the monitors; True if a state changed."""
        if now_s < self._monitors_due_s:
            return False
        changes = [self.line_monitor.update(now_s), self._pipeline.update(now_s)]
        self._schedule_monitors(now_s)
        return any(changes)

    def timer_wait_s(self, now_s: float) -> float:
        """Seconds until the protocol's next timer; infinite if none runs."""
        timeout = self.protocol.next_timeout()
        return math.inf if timeout is None else max(0.0, timeout - now_s)

    def rest_s(self, now_s: float) -> float:
        """Seconds in which a frame that has begun cannot end; 0 if that is not known."""
        return self.osdp.rest_s(now_s) if self.osdp is not None else 0.0

    def data_to_send(self, now_s: float) -> bytes:
        """The request that is due, empty if none is."""
        if self.timer_wait_s(now_s) > 0.0:
            return b""
        if self._light is not None:
            self._light.update()
        return self.protocol.data_to_send(now_s)

    def receive(
        self, data: bytes, errors: LineErrors | None, read_time: Callable[[], ReadTime], now_s: float
    ) -> bool:
        """Process bytes of the port, and the errors counted since the last ones; True if `status` changed.

        `read_time` returns when they were read.
        """
        if self.osdp is not None and not self.osdp.awaits_reply:
            return False  # of another reader
        self.counts.last_rx_monotonic_s = now_s
        if errors is not None and (any(errors) or self.counts.line_errors is None):
            self.counts.line_errors = (self.counts.line_errors or _NO_ERRORS).and_also(errors)
        was_silent = self.line_monitor.silent
        self.line_monitor.bytes_received(now_s)
        if was_silent:
            self._schedule_monitors(now_s)
        events = self.protocol.receive_data(data, now_s)
        self._process(events, errors or _NO_ERRORS, read_time, now_s)
        # A reader that is polled answers twenty times a second.
        return bool(events) or self.osdp is None

    def handle_timeout(self, timeout_s: float, read_time: Callable[[], ReadTime], now_s: float) -> bool:
        """Process what the timers that have expired at `timeout_s` complete; True if that is anything.

        `read_time` returns when the bytes of it were read.
        """
        events = self.protocol.handle_timeout(timeout_s)
        self._process(events, _NO_ERRORS, read_time, now_s)
        return bool(events)

    def _process(
        self, events: list[ReaderEvent], errors: LineErrors, read_time: Callable[[], ReadTime], now_s: float
    ) -> None:
        if self.osdp is not None and not events:
            return  # as with most of its replies
        read = read_time()
        # A damaged reply of OSDP has no event, and is sent again; and a line of two wires that changes its
        # direction is a line with errors.
        if self.osdp is None:
            within_frame = self.protocol.is_within_frame()
            read = self._held.interval(read, has_events=bool(events), within_frame=within_frame)
            events = self._damaged.screened(events, errors, within_frame=within_frame)
        self._pipeline.process(events, read, now_s)
        self._schedule_monitors(now_s)

    def _schedule_monitors(self, now_s: float) -> None:
        waits_s = self.line_monitor.wait_s(now_s), self.flood_monitor.wait_s(now_s)
        self._monitors_due_s = now_s + min(waits_s)
