"""The contract every wire protocol keeps: fed with bytes, drained of frames, pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.swipe import Frame


@dataclass(frozen=True, slots=True)
class LineSettings:
    """How a protocol's readers talk unless the configuration says otherwise."""

    baudrate: int = 9600
    data_bits: int = 8
    parity: str = "N"
    stop_bits: int = 1


class WireProtocol(Protocol):
    """Bytes in, frames out. Never raises on any bytes, holds no port, clock, log or thread,
    and gives the same frames however the bytes are cut into calls of feed().

    A card comes out with its last byte. Noise may be held until it ends, so that a burst of it
    is a few events and not one for every byte. The first line of an implementation's docstring
    names the readers that speak it: `badge-agent protocols` shows it to the installer.
    """

    @property
    def line(self) -> LineSettings:
        """The line settings its readers use by default."""

    @property
    def silence_ms(self) -> int:
        """After this much silence while `partial` holds, the session calls silence()."""

    @property
    def partial(self) -> bool:
        """True while bytes are held, of an unfinished frame or of noise: silence means something."""

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they came; return the frames they complete, in order."""

    def silence(self) -> list[Frame]:
        """The line fell silent: what is held is a whole frame, or truncated noise."""

    def reset(self) -> None:
        """Forget what is held: the port was opened anew."""
