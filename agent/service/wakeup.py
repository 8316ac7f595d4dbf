"""Wakes one waiting thread from other threads and from signal handlers, without a lock."""

from __future__ import annotations

import contextlib
import os
import select


class Wakeup:
    """A self-pipe. threading.Event is unsuitable: set() in a signal handler can deadlock."""

    def __init__(self) -> None:
        self._read_fd, self.fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def set(self) -> None:
        """Wake the waiting thread; pending wake-ups are consumed by the next wait()."""
        with contextlib.suppress(BlockingIOError):  # the pipe is full of wake-ups
            os.write(self.fd, b"!")

    def wait(self, timeout_s: float | None) -> None:
        """Return on a wake-up or after the timeout; None waits without a limit."""
        if select.select([self._read_fd], [], [], timeout_s)[0]:
            with contextlib.suppress(BlockingIOError):
                os.read(self._read_fd, 4096)
