"""Records an unknown reader at one baud rate after another, for a bounded time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Protocol

from agent.readers.detect.match import Chunk, Recording, match
from agent.readers.protocols import PROTOCOLS, make_protocol

# The baud rates of readers in the field, the most common first.
SPEEDS = (9600, 115200, 19200, 38400, 57600, 2400, 4800)
BUDGET_S = 60.0
_SLICE_S = 4.0  # a person presents a card about once a second, and a few times
_STAY_S = 15.0  # at a baud rate where a card was read, wait for its repetition
_ENOUGH_READS = 3
# Enough to recognise a protocol; every protocol parses it.
_KEPT_BYTES = 4096
_SHORTEST_WAIT_S = 0.01
_PAUSE_S = 0.1  # longer than any pause within a frame: parse what was received


class SerialLine(Protocol):
    """An open serial line, as agent.readers.port.Port."""

    def read(self, timeout_s: float | None) -> bytes:
        """The bytes that have arrived; b"" after `timeout_s` without any."""

    def write(self, data: bytes) -> None:
        """Send without waiting."""

    def close(self) -> None:
        """Close the port."""


def survey(
    open_line: Callable[[int], SerialLine],
    speeds: Sequence[int],
    *,
    monotonic_s: Callable[[], float],
    trying: Callable[[int, str], None],
    budget_s: float = BUDGET_S,
) -> Iterator[Recording]:
    """Recordings at these baud rates in rotation, until one card was read often enough or time is up.

    First without requests; while nothing was received, also with the requests of the polled
    protocols. `trying` is called with each baud rate and the name of the polled protocol or "".
    Raises PortError, PortBusyError or NotPermittedError.
    """
    ends_s = monotonic_s() + budget_s
    any_bytes = False
    while True:
        for baudrate, asked in [*((speed, "") for speed in speeds), *_polled(speeds)]:
            left_s = ends_s - monotonic_s()
            if left_s <= 0:
                return
            if asked and any_bytes:
                continue
            trying(baudrate, asked)
            with closing(open_line(baudrate)) as line:
                recording = _listen(line, baudrate, asked, left_s, monotonic_s)
            yield recording
            if _reads(recording) >= _ENOUGH_READS:
                return
            any_bytes = any_bytes or bool(recording.chunks and not asked)


def _polled(speeds: Sequence[int]) -> list[tuple[int, str]]:
    """The polled protocols, at their own baud rate, or at the only one that was given."""
    return [
        (speeds[0] if len(speeds) == 1 else protocol.line.baudrate, name)
        for name, protocol in PROTOCOLS.items()
        if protocol.polled
    ]


def _listen(
    line: SerialLine,
    baudrate: int,
    asked: str,
    left_s: float,
    monotonic_s: Callable[[], float],
) -> Recording:
    """The newest bytes of one slice, which is longer if a card is read, and ends after enough reads."""
    protocol = make_protocol(asked) if asked else None
    chunks: deque[Chunk] = deque()
    started_s = last_s = now_s = monotonic_s()
    ends_s, looked = started_s + min(_SLICE_S, left_s), True
    while now_s < ends_s:
        wait_s = min(_PAUSE_S, ends_s - now_s)
        if protocol is not None:
            if request := protocol.data_to_send(now_s):
                line.write(request)
            due_s = protocol.next_timeout()
            wait_s = wait_s if due_s is None else min(wait_s, max(due_s - now_s, _SHORTEST_WAIT_S))
        data = line.read(wait_s)
        now_s = monotonic_s()
        if data:
            chunks.append((now_s - last_s, data))
            _drop_oldest(chunks)
            last_s, looked = now_s, False
        elif not looked and now_s - last_s >= _PAUSE_S:
            looked = True
            reads = _reads(Recording(baudrate, chunks, asked))
            if reads >= _ENOUGH_READS:
                break
            if reads:
                ends_s = started_s + min(_STAY_S, left_s)
    return Recording(baudrate, tuple(chunks), asked)


def _drop_oldest(chunks: deque[Chunk]) -> None:
    while len(chunks) > 1 and sum(len(data) for _, data in chunks) > _KEPT_BYTES:
        chunks.popleft()


def _reads(recording: Recording) -> int:
    """How often the likeliest card was read."""
    candidates = match(recording)
    card = candidates[0].card if candidates else None
    return card.times if card else 0
