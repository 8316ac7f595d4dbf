"""The LED and the buzzer of an OSDP reader: which commands are due."""

from __future__ import annotations

from collections import deque
from collections.abc import Container
from enum import Enum

from agent.readers.protocols.osdp.codes import Command
from agent.readers.protocols.osdp.outputs import Colour, beep, steady_led, timed_led

_GREEN_MS = 1000
_BEEP_MS = 100


class Light(Enum):
    """What the LED shows while no swipe was just stored."""

    NORMAL = Colour.OFF
    DELAYED = Colour.AMBER  # swipes wait for Snowflake for too long
    BLOCKED = Colour.RED  # the outbox takes no swipe


class Lights:
    """Wanted and shown state; a state that is not shown is due until the reader has answered it."""

    def __init__(self) -> None:
        self._wanted: Light | None = None  # None: the reader manages its LED itself
        self._shown: Light | None = None
        self._signal: deque[tuple[Command, bytes]] = deque()

    @property
    def steady(self) -> Light | None:
        """The steady state that was set last."""
        return self._wanted

    def show(self, light: Light) -> None:
        """Set the steady state."""
        self._wanted = light

    def signal_stored(self) -> None:
        """Green for a moment and a beep: a swipe is durable. One that is still due is not repeated."""
        if not self._signal:
            green = (Command.LED, timed_led(Colour.GREEN, _GREEN_MS))
            self._signal += (green, (Command.BUZ, beep(_BEEP_MS)))

    def reset(self) -> None:
        """The reader was out of reach: it may show anything, and a signal of before would be misleading."""
        self._shown = None
        self._signal.clear()

    def next_command(self, refused: Container[Command]) -> tuple[Command, bytes] | None:
        """The command that is due, until answered() is called for it; None if there is none.

        `refused`: commands that the reader does not execute.
        """
        while self._signal and self._signal[0][0] in refused:
            self._signal.popleft()
        if self._signal:
            return self._signal[0]
        if self._wanted is None or self._wanted is self._shown or Command.LED in refused:
            return None
        return Command.LED, steady_led(self._wanted.value)

    def answered(self, command: tuple[Command, bytes]) -> None:
        """The reader has answered a command."""
        if self._signal and command == self._signal[0]:
            self._signal.popleft()
        else:
            self._shown = next((light for light in Light if steady_led(light.value) == command[1]), None)
