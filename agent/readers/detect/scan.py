"""Records an unknown reader at one baud rate after another, for a bounded time."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from typing import NamedTuple, Protocol

from agent.errors import LineSettingsError
from agent.readers.detect.line_options import suggestion
from agent.readers.detect.line_shape import text_lines
from agent.readers.detect.match import NO_ERRORS, PLAIN, Chunk, LineForm, Recording, match
from agent.readers.protocols import STANDALONE, make_protocol
from agent.readers.uart import LineErrors

# The baud rates of readers in the field, the most common first.
SPEEDS = (9600, 115200, 19200, 38400, 57600, 2400, 4800)
# The data bits and parity of readers with other ones than 8N1, the most common first.
FORMS = (LineForm(7, "even"), LineForm(8, "even"), LineForm(8, "odd"))
_SPEEDS_WITH_FORMS = 2  # where most text came: more would not fit into the time
_NO_TEXT = bytes([*range(0x20), *range(0x7F, 0x100)])
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

    def new_errors(self) -> LineErrors | None:
        """The errors that the kernel has counted since the opening; None if it counts none."""

    def close(self) -> None:
        """Close the port."""


def survey(
    open_line: Callable[[int, LineForm], SerialLine],
    speeds: Sequence[int],
    *,
    monotonic_s: Callable[[], float],
    trying: Callable[[Attempt], None],
    budget_s: float = BUDGET_S,
) -> Iterator[Recording]:
    """Recordings at these baud rates in rotation, until one card was read often enough or time is up.

    First at 8N1 and without requests. While nothing was received, also with the requests of the polled
    protocols; otherwise, at the baud rates where most text came, also with the other FORMS: right after
    a card was read with line errors, else after each rotation; those that the driver lacks are left out.
    Text of an unknown form ends the survey with the rotation: another setting of the line explains no more.
    `trying` is called before each.
    Raises PortError, PortBusyError or NotPermittedError.
    """
    ends_s = monotonic_s() + budget_s
    plan = _Plan(speeds)
    while (left_s := ends_s - monotonic_s()) > 0 and (attempt := plan.next()):
        trying(attempt)
        try:
            line = open_line(attempt.baudrate, attempt.form)
        except LineSettingsError:
            if attempt.form == PLAIN:
                raise
            continue
        with closing(line):
            recording = _listen(line, attempt, left_s, monotonic_s)
        yield recording
        if plan.is_complete_with(recording):
            return


class Attempt(NamedTuple):
    """A setting of the line to listen with, and the polled protocol whose requests are sent, or ""."""

    baudrate: int
    form: LineForm = PLAIN
    asked: str = ""


class _Plan:
    """What to try next, given what was recorded."""

    def __init__(self, speeds: Sequence[int]) -> None:
        self._plain = [*map(Attempt, speeds), *_polled(speeds)]
        self._attempts = deque(self._plain)
        self._text: Counter[int] = Counter()  # how much text came at each baud rate
        self._any_bytes = self._has_text = False

    def next(self) -> Attempt | None:
        """The next attempt; None if there is only text of an unknown form."""
        while True:
            if not self._attempts:
                if self._has_text:
                    return None
                self._attempts.extend(self._rotation())
            attempt = self._attempts.popleft()
            if not (attempt.asked and self._any_bytes):
                return attempt

    def is_complete_with(self, recording: Recording) -> bool:
        """True if this recording has a card that was read often enough."""
        is_plain = recording.form == PLAIN and not recording.asked
        if is_plain and recording.bytes:
            self._any_bytes = True
            self._text[recording.baudrate] += len(recording.data.translate(None, _NO_TEXT))
        self._has_text = self._has_text or _has_text(recording)
        reads = _reads(recording)
        if reads < _ENOUGH_READS:
            return False
        # The opening within a byte is an error; a wrong form is several in each frame.
        if sum(recording.errors) < reads:
            return True
        if is_plain:
            self._attempts.extendleft(reversed(_with_forms(recording.baudrate)))
        return False

    def _rotation(self) -> list[Attempt]:
        most = self._text.most_common(_SPEEDS_WITH_FORMS)
        return [*chain.from_iterable(_with_forms(speed) for speed, _ in most), *self._plain]


def _with_forms(baudrate: int) -> list[Attempt]:
    return [Attempt(baudrate, form) for form in FORMS]


def _polled(speeds: Sequence[int]) -> list[Attempt]:
    """The polled protocols, at their own baud rate, or at the only one that was given."""
    return [
        Attempt(speeds[0] if len(speeds) == 1 else protocol.line.baudrate, asked=name)
        for name, protocol in STANDALONE.items()
        if protocol.polled
    ]


def _listen(line: SerialLine, attempt: Attempt, left_s: float, monotonic_s: Callable[[], float]) -> Recording:
    """The newest bytes of one slice, which is longer if a card is read, and ends after enough reads."""
    protocol = make_protocol(attempt.asked) if attempt.asked else None
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
            reads = _reads(Recording(attempt.baudrate, chunks, attempt.asked, attempt.form))
            if reads >= _ENOUGH_READS:
                break
            if reads:
                ends_s = started_s + min(_STAY_S, left_s)
    errors = line.new_errors() or NO_ERRORS
    return Recording(attempt.baudrate, tuple(chunks), attempt.asked, attempt.form, errors)


def _has_text(recording: Recording) -> bool:
    """True for several lines that some options of `line` read: then only the options are unknown."""
    lines = text_lines(recording.data)
    is_clean = not any(recording.errors) and b"\0" not in recording.data
    return is_clean and len(lines) >= _ENOUGH_READS and bool(suggestion(lines).options)


def _drop_oldest(chunks: deque[Chunk]) -> None:
    while len(chunks) > 1 and sum(len(data) for _, data in chunks) > _KEPT_BYTES:
        chunks.popleft()


def _reads(recording: Recording) -> int:
    """How often the likeliest card was read."""
    candidates = match(recording)
    card = candidates[0].card if candidates else None
    return card.times if card else 0
