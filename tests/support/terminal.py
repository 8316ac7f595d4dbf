"""Runs a command on a pseudo-terminal, types into it and reads its output."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

# The command's own session, with the terminal in control of it: Ctrl-C is a signal there.
_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
_LONGEST_S = 60.0
_QUIET_S = 3.0  # no output and no end for this long: the signal was missed


class Terminal:
    """A command on a pseudo-terminal; `screen` is its output so far."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> None:
        self.screen = ""
        self._seen = 0
        self._master, slave = os.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment,
            start_new_session=True,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    def expect(self, text: str) -> str:
        """Wait for a text after the one expected before; returns the output up to it."""
        deadline = time.monotonic() + _LONGEST_S
        while (found := self.screen.find(text, self._seen)) < 0:
            assert self._read(deadline - time.monotonic()), f"no {text!r} in:\n{self.screen}"
        start, self._seen = self._seen, found + len(text)
        return self.screen[start : self._seen]

    def type(self, text: str) -> None:
        """Type a text and the return key."""
        os.write(self._master, f"{text}\n".encode())

    def interrupted(self) -> int:
        """Press Ctrl-C until the command ends; returns its exit code.

        Usually once: Python's readline can miss a signal that arrives just before it waits.
        """
        while True:
            os.write(self._master, b"\x03")
            while self._read(_QUIET_S):
                pass
            with suppress(subprocess.TimeoutExpired):
                return self._process.wait(timeout=_QUIET_S)

    def ended(self) -> int:
        """Wait for the command's end; returns its exit code."""
        while self._read(_LONGEST_S):
            pass
        return self._process.wait(timeout=_LONGEST_S)

    def _read(self, timeout_s: float) -> bool:
        """Read more output. False at its end or after the timeout."""
        if not select.select([self._master], [], [], max(0.0, timeout_s))[0]:
            return False
        try:
            data = os.read(self._master, 4096)
        except OSError:  # EIO: the other end is closed
            return False
        self.screen += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
