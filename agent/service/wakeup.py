"""Wakes one waiting thread, from any other thread and from signals, without a lock."""

from __future__ import annotations

import contextlib
import os
import select


class Wakeup:
    """A pipe that rings. An Event is no choice here: setting one in a signal handler can deadlock."""

    def __init__(self) -> None:
        self._hears, self.fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """Wake the waiter; rings that nobody waits for are heard by the next wait()."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full of rings already
            os.write(self.fd, b"!")

    def wait(self, timeout_s: float | None) -> None:
        """Return when rung, or after the timeout; None waits for ever."""
        if select.select([self._hears], [], [], timeout_s)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._hears, 4096)
