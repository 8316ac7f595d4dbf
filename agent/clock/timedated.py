"""Asks systemd-timedated whether the clock is synchronised, for a process that may not call adjtimex(2)."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

# The daemon is started for the query and takes a moment, so the query runs in a thread, and rarely.
_ASK_EVERY_S = 60.0
_ANSWER_S = 20.0
# An answer older than this is discarded.
_VALID_S = 300.0
# Offsets of the clocks that differ by less are equal.
_SAME_US = 100_000
_QUESTION = ("timedatectl", "show", "--property=NTPSynchronized", "--value")


class Timedated:
    """A cached answer of systemd-timedated(8), which reports for any time daemon."""

    def __init__(self, boottime_s: Callable[[], float]) -> None:
        """`boottime_s` also counts the time of a suspend: the answer from before it is an old one."""
        self._boottime_s = boottime_s
        self._asked_at: float | None = None
        self._yes: tuple[float, int] | None = None  # when it was asked, and the offset at that time
        self._asking = threading.Lock()

    def reports_synchronised(self, offset_us: int) -> bool:
        """The last answer while it is valid; never waits. False without systemd.

        `offset_us`: wall clock minus boot-time clock. An answer from before the clock was set is void, as
        the kernel clears its status then.
        """
        now = self._boottime_s()
        with self._asking:
            due = self._asked_at is None or now - self._asked_at >= _ASK_EVERY_S
            if due:
                self._asked_at = now
        if due:
            threading.Thread(target=self.ask, args=(offset_us,), name="timedated", daemon=True).start()
        yes = self._yes  # read once: the thread of ask() replaces it
        if yes is None:
            return False
        asked_at, known_us = yes
        return now - asked_at < _VALID_S and abs(offset_us - known_us) <= _SAME_US

    def ask(self, offset_us: int) -> bool:
        """Query and wait for the answer, for at most _ANSWER_S."""
        asked_at = self._boottime_s()
        try:
            answer = subprocess.run(  # noqa: S603 - words of our own
                _QUESTION, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            return False  # no systemd, or a busy one: queried again later
        is_yes = answer.strip() == b"yes"
        self._yes = (asked_at, offset_us) if is_yes else None
        return is_yes
