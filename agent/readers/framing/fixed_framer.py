"""The framer for frames of fixed length with a start byte, and its resynchronisation."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from agent.readers.events import Noise, NoiseReason, ReaderEvent
from agent.readers.framing.noise import NoiseRun
from agent.readers.protocol import ListeningProtocol
from agent.swipe import CardCheck

Shape = Sequence[bytes]
"""The bytes allowed at each place of a frame; the first place allows only the start byte."""

ANY = bytes(range(256))
_UNCHECKED, _CHECKSUM = CardCheck.NONE, CardCheck.CHECKSUM


class FramedProtocol(ListeningProtocol):
    """A wire protocol whose frames have a start byte and one or more fixed shapes.

    A subclass declares the shapes, no two of which match the same bytes, and parses a frame that
    matches one. After an invalid frame the search continues at the next start byte within it, so
    that a damaged frame never hides a valid one.
    """

    shapes: ClassVar[tuple[Shape, ...]]
    may_hold_pin: ClassVar[bool] = False

    def __init__(self) -> None:
        starts = bytes({byte for shape in self.shapes for byte in shape[0]})
        self._starts = re.compile(_one_of(starts), re.DOTALL)
        self._by_start = {byte: [shape for shape in self.shapes if byte in shape[0]] for byte in starts}
        self._whole = re.compile(b"|".join(b"".join(map(_one_of, shape)) for shape in self.shapes), re.DOTALL)
        self._seconds = frozenset(byte for shape in self.shapes for byte in shape[1])
        self._held = bytearray()
        self._noise = NoiseRun(secret=self.may_hold_pin)

    @abstractmethod
    def read(self, frame: bytes) -> ReaderEvent | NoiseReason | None:
        """Parse a frame that matches a shape; None for "no card", a NoiseReason for noise."""

    def reset(self) -> None:
        """Discard held bytes and timers: the port was reopened."""
        super().reset()
        self._held.clear()
        self._noise.reset()

    def is_within_frame(self) -> bool:
        """True while bytes of an unfinished frame, or of noise, are held."""
        return bool(self._held or self._noise)

    def _parse(self, data: bytes) -> list[ReaderEvent]:
        events: list[ReaderEvent] = []
        if not self._noise:  # the usual case: whole frames only, without a search
            data = self._take(len(self._held)) + data
            data = data[self._read_whole(data, events) :]
        self._held += data
        while self._held:
            start = self._next_start(len(self._held), 0)
            if start:
                events += self._noise.add(self._take(start))
                continue
            whole = self._whole.match(self._held)
            if whole:
                events += self._finish(whole.end())
                continue
            if len(self._held) > 1 and self._held[1] not in self._seconds:
                events += self._refuse(1)  # the usual case of a stray start byte, without comparing shapes
                continue
            misfits = [_misfit(shape, self._held) for shape in self._by_start[self._held[0]]]
            if len(self._held) in misfits:
                break  # one shape still matches all bytes: wait for more
            events += self._refuse(max(misfits))
        return events

    def _flush(self) -> list[ReaderEvent]:
        """The held frame is truncated; whole frames may be among its bytes."""
        events: list[ReaderEvent] = []
        while self._held:
            events += self._noise.add(self._take(self._next_start(len(self._held))), NoiseReason.TRUNCATED)
            events += self._parse(b"")
        return [*events, *self._noise.end()]

    def _read_whole(self, data: bytes, events: list[ReaderEvent]) -> int:
        """Append the valid frames at the beginning of `data`; return the offset of the first other byte."""
        end = 0
        while found := self._whole.match(data, end):
            outcome = self.read(found[0])
            if isinstance(outcome, NoiseReason):
                break
            if outcome is not None:
                events.append(outcome)
            end = found.end()
        return end

    def _finish(self, length: int) -> list[ReaderEvent]:
        """The events of a complete frame; noise ends where the next frame may start."""
        outcome = self.read(bytes(self._held[:length]))
        if isinstance(outcome, NoiseReason):
            return [*self._noise.alone(self._take(self._next_start(length)), outcome)]
        self._take(length)
        return [*self._noise.end(), *([] if outcome is None else [outcome])]

    def _refuse(self, place: int) -> list[Noise]:
        """The byte at `place` matches no shape: discard up to the next start byte."""
        end = self._next_start(place + 1)
        return self._noise.add(self._take(end), NoiseReason.SYNTAX if end > place else NoiseReason.TRUNCATED)

    def _next_start(self, end: int, begin: int = 1) -> int:
        """The place of the first start byte from `begin`, or `end` if there is none before it."""
        found = self._starts.search(self._held, begin, end)
        return found.start() if found else end

    def _take(self, length: int) -> bytes:
        taken = bytes(self._held[:length])
        del self._held[:length]
        return taken


def check_of(frame: bytes) -> CardCheck:
    """The check of a frame that ends in a valid checksum: NONE if that is the start byte.

    Then the frame may have lost a byte, and its last one be the first of the next frame: an XOR of one
    byte does not detect that, because it does not depend on the order.
    """
    return _UNCHECKED if frame[-1] == frame[0] else _CHECKSUM


def _one_of(allowed: bytes) -> bytes:
    return b"." if allowed == ANY else b"[" + b"".join(re.escape(bytes([byte])) for byte in allowed) + b"]"


def _misfit(shape: Shape, held: bytearray) -> int:
    """The first place where `held` does not match the shape; the shorter length if it matches."""
    place = 0
    for allowed, byte in zip(shape, held, strict=False):
        if byte not in allowed:
            return place
        place += 1
    return place
