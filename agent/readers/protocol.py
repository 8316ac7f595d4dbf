"""The contract every wire protocol keeps: fed with bytes, drained of frames, pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle
from types import MappingProxyType
from typing import ClassVar, Protocol

from agent.readers.events import ReaderEvent


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How a protocol's readers talk unless the configuration says otherwise."""

    baudrate: int = 9600
    data_bits: int = 8
    parity: str = "N"
    stop_bits: int = 1
    hold_reset_lines: bool = False  # DTR and RTS stay low: boards wired to be reset by them would restart


@dataclass(frozen=True, slots=True)
class Polling:
    """For readers that speak only when asked: a request every `every_ms`, each in its turn."""

    requests: tuple[bytes, ...]
    every_ms: int


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of one protocol, a key of [readers.options]: text, or a number if the default is one."""

    meaning: str
    default: str | int = ""
    allowed: tuple[str, ...] = ()  # of a text; empty: any of at most `high` characters
    low: int = 0
    high: int = 16

    def problem_with(self, value: object) -> str | None:
        """What keeps a value from being one, as a sentence for the installer; None if nothing does."""
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
    """Options that a protocol cannot work with: `problems` says of each one what is wrong."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{name}: {wrong}" for name, wrong in problems.items()))
        self.problems = dict(problems)


class WireProtocol(Protocol):
    """Bytes in, frames out. Never raises on any bytes, holds no port, clock, log or thread,
    and gives the same frames however the bytes are cut into calls of feed().

    A card comes out with its last byte. Noise may be held until it ends, so that a burst of it
    is a few events and not one for every byte. The first line of an implementation's docstring
    names the readers that speak it: `badge-agent protocols` shows it to the installer.
    """

    line: ClassVar[LineSettings]
    """The line settings its readers use by default."""

    options: ClassVar[Mapping[str, Option]]
    """What it can be told, and takes as keyword arguments; it raises OptionError for a contradiction."""

    polling: ClassVar[Polling | None]
    """What the session has to ask its readers; None if they speak by themselves."""

    silence_ms: ClassVar[int]
    """After this much silence while `partial` holds, the session calls silence()."""

    @property
    def partial(self) -> bool:
        """True while bytes are held, of an unfinished frame or of noise: silence means something."""

    def feed(self, data: bytes) -> list[ReaderEvent]:
        """Take bytes as they came; return the frames they complete, in order."""

    def silence(self) -> list[ReaderEvent]:
        """The line fell silent: what is held is a whole frame, or truncated noise."""

    def reset(self) -> None:
        """Forget what is held: the port was opened anew."""


class Poller:
    """The requests of a protocol, each in its turn. Times are seconds of one monotonic clock."""

    def __init__(self, polling: Polling) -> None:
        self._requests = cycle(polling.requests)
        self._every_s = polling.every_ms / 1000
        self._next_s = 0.0

    def due(self, now_s: float) -> bytes:
        """The request to send now; b"" if it is not time yet."""
        if now_s < self._next_s:
            return b""
        # From now and not from the time it was due: after a pause there is nothing to catch up on.
        self._next_s = now_s + self._every_s
        return next(self._requests)

    def wait_s(self, now_s: float) -> float:
        """How long until the next one."""
        return max(0.0, self._next_s - now_s)
