"""Asks systemd whether the clock is synchronised, for a process that may not ask the kernel itself."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable

# Its daemon is started for the question and takes a moment, so it is asked beside the work, and seldom.
_ASK_EVERY_S = 60.0
_ANSWER_S = 20.0
# An answer that could not be renewed for so long says nothing any more.
_VALID_S = 300.0
_QUESTION = ("timedatectl", "show", "--property=NTPSynchronized", "--value")


class Timedated:
    """Whatever daemon keeps the clock: systemd-timedated(8) answers for the kernel."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._asked_at: float | None = None
        self._yes_at: float | None = None
        self._asking = threading.Lock()

    def says_synchronised(self) -> bool:
        """Its last answer, while that holds; never waits. False where there is no systemd to ask."""
        now = self._monotonic_s()
        with self._asking:
            due = self._asked_at is None or now - self._asked_at >= _ASK_EVERY_S
            if due:
                self._asked_at = now
        if due:
            threading.Thread(target=self.ask, name="timedated", daemon=True).start()
        return self._yes_at is not None and now - self._yes_at < _VALID_S

    def ask(self) -> bool:
        """Ask and wait for the answer, some seconds at most."""
        asked_at = self._monotonic_s()
        try:
            answer = subprocess.run(  # noqa: S603 - words of our own
                _QUESTION, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return False  # no systemd here, or one that is too busy: asked again later
        self._yes_at = asked_at if answer.strip() == b"yes" else None
        return self._yes_at is not None
