"""Asks systemd-timedated whether the clock is synchronised, for a process that may not call adjtimex(2)."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable

# The daemon is started for the query and takes a moment, so the query runs in a thread, and rarely.
_ASK_EVERY_S = 60.0
_ANSWER_S = 20.0
# An answer older than this is discarded.
_VALID_S = 300.0
_QUESTION = ("timedatectl", "show", "--property=NTPSynchronized", "--value")


class Timedated:
    """A cached answer of systemd-timedated(8), which reports for any time daemon."""

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self._asked_at: float | None = None
        self._yes_at: float | None = None
        self._asking = threading.Lock()

    def says_synchronised(self) -> bool:
        """The last answer while it is valid; never waits. False without systemd."""
        now = self._monotonic_s()
        with self._asking:
            due = self._asked_at is None or now - self._asked_at >= _ASK_EVERY_S
            if due:
                self._asked_at = now
        if due:
            threading.Thread(target=self.ask, name="timedated", daemon=True).start()
        return self._yes_at is not None and now - self._yes_at < _VALID_S

    def ask(self) -> bool:
        """Query and wait for the answer, for at most _ANSWER_S."""
        asked_at = self._monotonic_s()
        try:
            answer = subprocess.run(  # noqa: S603 - words of our own
                _QUESTION, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return False  # no systemd, or a busy one: queried again later
        self._yes_at = asked_at if answer.strip() == b"yes" else None
        return self._yes_at is not None
