"""What an hour of hostile input on one serial line costs: lines in the journal, their bytes, memory.

Bytes are those of the entries as they are sent; journald adds an index of about the same size. The clock is
simulated: every frame goes through the real pipeline, monitors and limit of the log.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.clock.reading import ClockReading
from agent.log.journal import _entry
from agent.log.line_limit import LINES_PER_WINDOW, WINDOW_S, LineLimit
from agent.readers.events import ReaderEvent, Status
from agent.readers.line_monitor import LineMonitor
from agent.readers.protocols import make_protocol
from agent.readers.swipe_pipeline import ReadTime, SwipePipeline
from agent.settings import ReaderSettings
from agent.swipe import Swipe
from bench.figures import Figure

_HOUR_S = 3600
# Two kinds of lines for each state that a flood changes; a window may begin within the hour.
LINES_AN_HOUR_MAX = 4 * int(_HOUR_S / WINDOW_S + 1) * (LINES_PER_WINDOW + 1)
_MEMORY_MAX_BYTES = 5_000_000


@dataclass(frozen=True, slots=True)
class Flood:
    """What a line sends in one second: bytes for a protocol, or the events of a protocol."""

    name: str
    per_second: Callable[[int], Sequence[bytes | ReaderEvent]]
    silent_after_s: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The cost of a flood; `dropped` are the lines that the limit did not write."""

    events: int
    logged: int
    lines: int
    journal_bytes: int
    memory_bytes: int


def _bits(value: int) -> bytes:
    return f"26:{value:07X}\r\n".encode()


_CARD = 0x2F657AE
_NOISE = b"26:zz#\r\n"
_SWAPPED = _CARD ^ 0x3FFFFFF
_OPEN, _CLOSED = (
    Status(ok=ok, text=text) for ok, text in ((False, "tamper: cover open"), (True, "cover closed"))
)


def _swapped(_second: int) -> tuple[bytes, ...]:
    return (*(_bits(_SWAPPED),) * 3, _bits(_CARD)) * 5


def _noise_now_and_then(second: int) -> tuple[bytes, ...]:
    return (_NOISE,) * 10 if second // 60 % 3 == 0 else ()


def _silent_for_two_seconds(second: int) -> tuple[bytes, ...]:
    return (_bits(_CARD),) * (second % 3 == 0)


def _cards(second: int) -> tuple[bytes, ...]:
    return tuple(_bits(_h10301(second * 100 + number)) for number in range(100))


def _h10301(data: int) -> int:
    data &= 0xFFFFFF
    return ((data >> 12).bit_count() % 2) << 25 | data << 1 | 1 - (data & 0xFFF).bit_count() % 2


FLOODS = (
    Flood("a reader's state changes 34 times a second", lambda _: (_OPEN, _CLOSED) * 17),
    Flood("three swapped words and a good one, 5 times a second", _swapped),
    Flood("noise for a minute, quiet for two", _noise_now_and_then),
    Flood("a frame every 3 s where one is expected every 2 s", _silent_for_two_seconds, 2),
    Flood("100 frames of noise a second", lambda _: (_NOISE,) * 100),
    Flood("100 new valid cards a second", _cards),
)


class _NoSink:
    def put(self, _swipe: Swipe) -> None:
        """Discard: what a swipe costs on the disk is measured by the benchmark keep."""

    def set_flooding(self, _reader_id: str, *, flooding: bool) -> None:
        """Nothing is refused here."""

    def take_refused(self, _reader_id: str) -> list[Swipe]:
        return []


class _Counting(logging.Handler):
    """Counts what the limit lets through."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self.limit = LineLimit(clock)
        self.logged = self.lines = self.bytes = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.logged += record.levelno > logging.DEBUG
        self.count(self.limit.admit(record, lambda ready: ready))

    def count(self, records: Sequence[logging.LogRecord]) -> None:
        self.lines += len(records)
        self.bytes += sum(len(_entry(record)) for record in records)


def flooded(flood: Flood, *, seconds: int) -> Result:
    """Run a flood for so many simulated seconds."""
    now_s = 0.0
    handler = _Counting(lambda: now_s)
    log = logging.getLogger("agent.readers")
    before = log.level, log.propagate
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    reader = ReaderSettings(
        id="RDR-101",
        zone_id="ZONE-1",
        port=Path("/dev/null"),
        protocol="bits",
        expect_traffic_within=flood.silent_after_s,
    )
    monitor = LineMonitor(reader.id, expect_within_s=flood.silent_after_s)
    pipeline = SwipePipeline(reader, sink=_NoSink(), line_monitor=monitor, repeats_while_held=True)
    protocol = make_protocol("bits", {})
    events, peak = 0, _peak_bytes()
    try:
        monitor.port_opened(now_s)
        for second in range(seconds):
            now_s = float(second)
            monitor.update(now_s)
            read = ReadTime(ClockReading(second * 10**6, "boot", second * 10**6, trusted=True))
            for sent in _events(flood.per_second(second), protocol.receive_data, monitor, now_s):
                pipeline.process(sent, read, now_s)
                events += len(sent)
            handler.count(handler.limit.due())
        handler.count(handler.limit.release())
        grown = _peak_bytes() - peak
    finally:
        log.removeHandler(handler)
        log.setLevel(before[0])
        log.propagate = before[1]
    return Result(events, handler.logged, handler.lines, handler.bytes, grown)


def _peak_bytes() -> int:
    """The most memory that this process had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _events(
    sent: Sequence[bytes | ReaderEvent],
    receive: Callable[[bytes, float], Sequence[ReaderEvent]],
    monitor: LineMonitor,
    now_s: float,
) -> Iterator[Sequence[ReaderEvent]]:
    for item in sent:
        if isinstance(item, bytes):
            monitor.bytes_received(now_s)
            yield receive(item, now_s)
        else:
            yield (item,)


def run() -> list[Figure]:
    """One hour of each flood."""
    figures = []
    for flood in FLOODS:
        result = flooded(flood, seconds=_HOUR_S)
        figures.append(
            Figure(
                flood.name,
                f"{result.events:,} events, {result.logged:,} lines logged, {result.lines} written, "
                f"{result.journal_bytes:,} bytes, {result.memory_bytes / 1e6:.2f} MB of memory",
                f"<= {LINES_AN_HOUR_MAX} lines",
                result.lines <= LINES_AN_HOUR_MAX and result.memory_bytes <= _MEMORY_MAX_BYTES,
            )
        )
    return figures
