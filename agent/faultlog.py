"""Log transitions, not repetitions: a fault once, then at most once a minute with a count, then its end."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.errors import AgentError

_REPEAT_S = 60.0


class FaultLog:
    """One thing that can fail and recover. `subject` starts every line, for example `reader RDR-101`."""

    def __init__(self, log: logging.Logger, subject: str, monotonic_s: Callable[[], float]) -> None:
        self._log = log
        self._subject = subject
        self._monotonic_s = monotonic_s
        self._failures = 0
        self._logged_at = 0.0

    def failed(self, error: AgentError) -> None:
        """It failed, perhaps again."""
        now = self._monotonic_s()
        self._failures += 1
        if self._failures > 1 and now - self._logged_at < _REPEAT_S:
            return
        again = f" (failure {self._failures} in a row)" if self._failures > 1 else ""
        hint = f"; {error.hint}" if error.hint else ""
        self._log.warning("%s: %s%s%s", self._subject, error, again, hint)
        self._logged_at = now

    def recovered(self) -> None:
        """It works; says so once if it had failed before."""
        if self._failures:
            self._log.info("%s: recovered after %d failures", self._subject, self._failures)
            self._failures = 0
