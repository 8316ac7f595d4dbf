"""Frames of fixed length behind a start byte: how they are found in a stream, and found again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from agent.readers.protocol import LineSettings
from agent.readers.protocols.noise import NoiseRun
from agent.swipe import Frame, Noise, Reason, Word

Shape = Sequence[bytes]
"""A frame as the bytes allowed at each place; its first place allows the start byte alone."""


class FramedProtocol(ABC):
    """A wire protocol whose frames have one start byte and one or more fixed shapes.

    A subclass gives the shapes, no two of which one stream can fill, and reads a frame that
    fills one. Whatever a frame turns out to be, the search goes on at the next start byte in
    it, so that a broken frame never takes a good one along.
    """

    line = LineSettings()
    # A frame lasts 15 ms at 9600 baud and 50 ms at 2400, without a gap; USB adapters add 16 ms.
    silence_ms = 100
    shapes: tuple[Shape, ...]

    def __init__(self) -> None:
        self._start = self.shapes[0][0]
        self._held = bytearray()
        self._noise = NoiseRun()

    @abstractmethod
    def read(self, frame: bytes) -> Word | Reason:
        """The word in a frame that fills one of the shapes, or why it is no card."""

    @property
    def partial(self) -> bool:
        """True while an unfinished frame or noise is held."""
        return bool(self._held or self._noise)

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they came; return the frames they complete, in order."""
        self._held += data
        frames: list[Frame] = []
        while self._held:
            found = self._held.find(self._start)
            if found:
                frames += self._noise.add(self._take(found if found > 0 else len(self._held)))
                continue
            misfits = [_misfit(shape, self._held) for shape in self.shapes]
            full = [len(s) for s, m in zip(self.shapes, misfits, strict=True) if m == len(s)]
            if full:
                frames += self._finish(full[0])
            elif len(self._held) in misfits:
                break  # one shape still fits every byte there is: wait for more
            else:
                frames += self._refuse(max(misfits))
        return frames

    def silence(self) -> list[Frame]:
        """What is held will not be finished: truncated, after whatever noise came before it."""
        return [*self._noise.add(self._take(len(self._held)), Reason.TRUNCATED), *self._noise.end()]

    def reset(self) -> None:
        """Forget what is held: the port was opened anew."""
        self._held.clear()
        self._noise.reset()

    def _finish(self, length: int) -> list[Frame]:
        """A shape is filled: a card, or noise of its own that ends where a new frame may start."""
        outcome = self.read(bytes(self._held[:length]))
        if isinstance(outcome, Word):
            self._take(length)
            return [*self._noise.end(), outcome]
        return [*self._noise.end(), Noise(outcome, self._take(self._next_start(length)))]

    def _refuse(self, place: int) -> list[Noise]:
        """The byte at `place` fits no shape: give up this start byte, go on at the next one."""
        end = self._next_start(place + 1)
        return self._noise.add(self._take(end), Reason.SYNTAX if end > place else Reason.TRUNCATED)

    def _next_start(self, end: int) -> int:
        found = self._held.find(self._start, 1, end)
        return found if found > 0 else end

    def _take(self, length: int) -> bytes:
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken


def _misfit(shape: Shape, held: bytearray) -> int:
    """The first place where `held` leaves the shape; the shorter one's length if it never does."""
    place = 0
    for allowed, byte in zip(shape, held, strict=False):
        if byte not in allowed:
            return place
        place += 1
    return place
