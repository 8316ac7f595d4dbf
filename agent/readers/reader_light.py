"""The light of a reader shows whether a swipe is on disk: green and a beep only after that."""

from __future__ import annotations

from typing import Protocol

from agent.readers.protocols.osdp.lights import Light, Lights


class Durability(Protocol):
    """What is known of stored and delivered swipes. For any thread; no call waits."""

    def stored(self, reader_id: str) -> int:
        """How many swipes of this reader are on disk since the start."""

    def is_blocked(self, reader_id: str) -> bool:
        """Whether swipes of this reader cannot be stored now."""

    def waits_s(self) -> float:
        """How long swipes have waited for Snowflake, in seconds; 0 if none waits."""


class ReaderLight:
    """Sets the light of one reader. For the reader's thread only."""

    def __init__(
        self, reader_id: str, lights: Lights, durability: Durability, *, amber_after_s: float
    ) -> None:
        self._reader_id = reader_id
        self._lights = lights
        self._durability = durability
        self._amber_after_s = amber_after_s
        self._stored = durability.stored(reader_id)

    def update(self) -> None:
        """Show the present state, and a swipe that was stored since the last call.

        Not one that was stored after the outbox was blocked: the light was red when its card was presented.
        """
        stored, before = self._durability.stored(self._reader_id), self._lights.steady
        if self._durability.is_blocked(self._reader_id):
            light = Light.BLOCKED
        elif self._durability.waits_s() >= self._amber_after_s:
            light = Light.DELAYED
        else:
            light = Light.NORMAL
        self._lights.show(light)
        if stored > self._stored and before is not Light.BLOCKED:
            self._lights.signal_stored()
        self._stored = stored
