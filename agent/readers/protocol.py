"""The contract of every wire protocol, and the timers that implementations share. Pure: no port, no clock."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Protocol

from agent.readers.events import ReaderEvent
from agent.settings import LineParity, ReaderSettings

PARITIES: Mapping[LineParity, str] = MappingProxyType({"none": "N", "even": "E", "odd": "O"})


@dataclass(frozen=True, slots=True)
class LineSettings:
    """The serial line settings of a protocol's readers; the configuration may change each of them."""

    baudrate: int = 9600
    data_bits: int = 8
    parity: str = "N"
    stop_bits: int = 1
    hold_reset_lines: bool = False  # keep DTR and RTS low: some boards are reset by them
    rs485: bool = False
    low_latency: bool = False  # no waiting for more bytes in the driver of a USB adapter

    def at(self, baudrate: int | None) -> LineSettings:
        """The same settings with the configured baud rate; None keeps the protocol's own."""
        return self if baudrate is None else replace(self, baudrate=baudrate)

    def of(self, reader: ReaderSettings) -> LineSettings:
        """The same settings with those that the reader's configuration names."""
        return replace(
            self.at(reader.baudrate),
            data_bits=reader.data_bits or self.data_bits,
            parity=self.parity if reader.line_parity is None else PARITIES[reader.line_parity],
            stop_bits=reader.stop_bits or self.stop_bits,
            rs485=reader.rs485,
        )

    def __str__(self) -> str:
        """As installers write it: 9600 8N1."""
        return f"{self.baudrate} {self.data_bits}{self.parity}{self.stop_bits}{' RS-485' * self.rs485}"


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of one protocol, a key of [readers.options]: text, or a number if the default is one."""

    meaning: str
    default: str | int = ""
    allowed: tuple[str, ...] = ()  # of a text; empty: any of at most `high` characters
    low: int = 0
    high: int = 16

    def problem_with(self, value: object) -> str | None:
        """Why the value is invalid, as a sentence for the installer; None if it is valid."""
        if isinstance(self.default, int):
            if isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high:
                return None
            return f"must be a whole number from {self.low} to {self.high}"
        if self.allowed:
            return None if value in self.allowed else f"must be one of {', '.join(self.allowed)}"
        if isinstance(value, str) and len(value) <= self.high and value.isascii() and value.isprintable():
            return None
        return f'must be text in "quotes", at most {self.high} printable ASCII characters'


NO_OPTIONS: Mapping[str, Option] = MappingProxyType({})


class OptionError(ValueError):
    """Invalid protocol options: `problems` maps the name of each one to its fault."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {wrong}" for name, wrong in problems.items()))
        self.problems = dict(problems)


class WireProtocol(Protocol):
    """A parser for the bytes of one serial line, which may also send requests to the reader.

    An implementation has no port, clock, log or thread, and never raises on any bytes. `now` is the
    time in seconds of one monotonic clock. The events do not depend on how the bytes are divided
    among calls of receive_data(). A card is returned with its last byte; noise may be held until it
    ends, so that a burst of noise is a few events and not one per byte. The first line of an
    implementation's docstring names its readers: `badge-agent protocols` shows it to the installer.
    """

    line: ClassVar[LineSettings]
    """The default line settings of its readers."""

    options: ClassVar[Mapping[str, Option]]
    """Its options, taken as keyword arguments; the constructor raises OptionError for a contradiction."""

    polled: ClassVar[bool]
    """True if its readers send only in reply to a request."""

    repeats_while_held: ClassVar[bool]
    """True if its readers send a card again and again, less than a second apart, while it is in the field.

    False also where it depends on the reader: frames that waited are then a presentation each.
    """

    def receive_data(self, data: bytes, now: float) -> list[ReaderEvent]:
        """Parse received bytes; return the events they complete, in order."""

    def data_to_send(self, now: float) -> bytes:
        """The request that is due at `now`, empty if none is; it counts as sent."""

    def next_timeout(self) -> float | None:
        """When handle_timeout() and data_to_send() have work if no bytes arrive; None: not until then."""

    def handle_timeout(self, now: float) -> list[ReaderEvent]:
        """The events of timers that have expired at `now`: held bytes are a whole frame or truncated noise.

        With `now` infinite it ends the stream.
        """

    def is_within_frame(self) -> bool:
        """True while bytes of an unfinished frame, or of noise, are held."""

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""


class ListeningProtocol(ABC):
    """Base of all wire protocols: the silence timer. Its readers send without a request.

    The timer runs while bytes are held, and restarts with each call of receive_data().
    """

    line: ClassVar[LineSettings] = LineSettings()
    options: ClassVar[Mapping[str, Option]] = NO_OPTIONS
    polled: ClassVar[bool] = False
    repeats_while_held: ClassVar[bool] = False
    # A frame lasts 15 ms at 9600 baud and 50 ms at 2400, without a gap; USB adapters add 16 ms.
    silence_ms: ClassVar[int] = 100

    _silence_ends_s: float | None = None

    def receive_data(self, data: bytes, now: float) -> list[ReaderEvent]:
        """Parse received bytes and restart the silence timer if some are held."""
        events = self._parse(data)
        self._silence_ends_s = now + self.silence_ms / 1000 if self.is_within_frame() else None
        return events

    def data_to_send(self, now: float) -> bytes:  # noqa: ARG002 - for the polled ones
        """Empty: the reader sends without requests."""
        return b""

    def next_timeout(self) -> float | None:
        """The end of the silence timer, if it runs."""
        return self._silence_ends_s

    def handle_timeout(self, now: float) -> list[ReaderEvent]:
        """End the frame or noise that is held if the line was silent for `silence_ms`."""
        if self._silence_ends_s is None or now < self._silence_ends_s:
            return []
        self._silence_ends_s = None
        return self._flush()

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        self._silence_ends_s = None

    @abstractmethod
    def _parse(self, data: bytes) -> list[ReaderEvent]:
        """The events that these bytes complete, in order."""

    @abstractmethod
    def is_within_frame(self) -> bool:
        """True while bytes of an unfinished frame or of noise are held, so that silence has a meaning."""

    @abstractmethod
    def _flush(self) -> list[ReaderEvent]:
        """The events of the held bytes, given that no more follow."""


class PolledProtocol(ListeningProtocol):
    """Mixin for readers that send only in reply: one of `requests` every `poll_ms`, in rotation.

    It precedes the framer among the base classes.
    """

    polled: ClassVar[bool] = True
    repeats_while_held: ClassVar[bool] = True  # each request is answered with the card in the field
    requests: ClassVar[tuple[bytes, ...]]
    poll_ms: ClassVar[int]

    _poll_due_s = 0.0
    _polls = 0

    def data_to_send(self, now: float) -> bytes:
        """The next request, if `poll_ms` have passed since the last one."""
        if now < self._poll_due_s:
            return b""
        # Counted from now and not from the due time: after a pause no missed requests are made up for.
        self._poll_due_s = now + self.poll_ms / 1000
        self._polls += 1
        return self.requests[(self._polls - 1) % len(self.requests)]

    def next_timeout(self) -> float:
        """The end of the silence timer or the time of the next request, whichever is earlier."""
        silence_ends_s = super().next_timeout()
        return self._poll_due_s if silence_ends_s is None else min(silence_ends_s, self._poll_due_s)

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._poll_due_s, self._polls = 0.0, 0
