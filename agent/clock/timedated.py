"""Asks systemd-timedated whether the clock is synchronised, for a process that may not call adjtimex(2)."""

from __future__ import annotations

import math
import subprocess
import threading
from collections.abc import Callable
from typing import NamedTuple

from agent.clock.sync_marks import GROWTH, LARGEST_ERROR_US

# The daemon is started for the query and takes a moment, so the query runs in a thread, and rarely.
_ASK_EVERY_S = 60.0
# After a query without an answer: at boot the bus may not be there yet.
_ASK_AGAIN_S = 10.0
_ANSWER_S = 20.0
# An answer older than this is discarded.
_VALID_S = 300.0
# Offsets of the clocks that differ by less are equal.
_SAME_US = 100_000
_QUESTION = ("timedatectl", "show", "--property=NTPSynchronized", "--value")


class _Answer(NamedTuple):
    """An answer, when it was asked for (in seconds since boot), and the offset of the clocks then."""

    asked_at: float
    offset_us: int
    is_yes: bool
    corrected_after: float


class Timedated:
    """A cached answer of systemd-timedated(8), which reports for any time daemon.

    A "yes" does not say when the clock was corrected: at the latest "no" at the earliest, or else at the
    begin of the boot.
    """

    def __init__(self, boottime_s: Callable[[], float]) -> None:
        """`boottime_s` also counts the time of a suspend: the answer from before it is an old one."""
        self._boottime_s = boottime_s
        self._due_at = 0.0
        self._answer: _Answer | None = None
        self._asking = threading.Lock()

    def max_error_us(self, offset_us: int) -> int | None:
        """How far off the clock is at most, by the last "yes" while it is valid; else None.

        Never waits. `offset_us`: wall clock minus boot-time clock. An answer from before the clock was set is
        void, as the kernel clears its status then.
        """
        now = self._boottime_s()
        with self._asking:
            due = now >= self._due_at
            if due:
                self._due_at = now + _ASK_EVERY_S
        if due:
            threading.Thread(target=self.ask, args=(offset_us,), name="timedated", daemon=True).start()
        answer = self._answer  # read once: the thread of ask() replaces it
        if answer is None or now - answer.asked_at >= _VALID_S:
            return None
        if not answer.is_yes or abs(offset_us - answer.offset_us) > _SAME_US:
            return None
        by_kernel_us = LARGEST_ERROR_US + GROWTH * 1e6 * (now - answer.asked_at)
        return math.ceil(min(by_kernel_us, GROWTH * 1e6 * (now - answer.corrected_after)))

    def ask(self, offset_us: int) -> bool:
        """Query and wait for the answer, for at most _ANSWER_S."""
        asked_at = self._boottime_s()
        try:
            answer = subprocess.run(  # noqa: S603 - words of our own
                _QUESTION, stdin=subprocess.DEVNULL, capture_output=True, timeout=_ANSWER_S, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            self._due_at = asked_at + _ASK_AGAIN_S
            return False  # no systemd, or a busy one
        is_yes, before = answer.strip() == b"yes", self._answer
        corrected_after = asked_at if not is_yes else before.corrected_after if before is not None else 0.0
        self._answer = _Answer(asked_at, offset_us, is_yes, corrected_after)
        return is_yes
