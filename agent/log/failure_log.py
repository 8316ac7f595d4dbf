"""Logs transitions, not repetitions: the first failure, at most one line a minute, the recovery."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.errors import AgentError
from agent.log.message_ids import NEEDS_OPERATOR, MessageId, fields

_REPEAT_S = 60.0


class FailureLog:
    """The failures of one subject; its name starts every line, for example `reader RDR-101`."""

    def __init__(
        self,
        log: logging.Logger,
        subject: str,
        monotonic_s: Callable[[], float],
        *,
        recovery: MessageId,
        reader: str | None = None,
    ) -> None:
        """`recovery`: MESSAGE_ID of the line that reports the recovery; `reader`: the reader's id, if any."""
        self._log = log
        self._subject = subject
        self._monotonic_s = monotonic_s
        self._recovery = recovery
        self._reader = reader
        self._channel: str | None = None
        self._failures = 0
        self._logged: set[MessageId] = set()
        self._logged_at = 0.0

    def failed(self, error: AgentError, event: MessageId, *, channel: str | None = None) -> None:
        """Report a failure; an event not logged since the last recovery is logged without rate limit."""
        now = self._monotonic_s()
        self._failures += 1
        if event in self._logged and now - self._logged_at < _REPEAT_S:
            return
        again = f" (failure {self._failures} in a row)" if self._failures > 1 else ""
        hint = f"; {error.hint}" if error.hint else ""
        self._log.log(
            logging.ERROR if event in NEEDS_OPERATOR else logging.WARNING,
            "%s: %s%s%s",
            self._subject,
            error,
            again,
            hint,
            extra=fields(event, reader=self._reader, channel=channel, error=error),
        )
        self._logged.add(event)
        self._channel = channel
        self._logged_at = now

    def recovered(self) -> None:
        """Report success; logs the recovery if there were failures."""
        if self._failures:
            self._log.info(
                "%s: recovered after %d failures",
                self._subject,
                self._failures,
                extra=fields(self._recovery, reader=self._reader, channel=self._channel),
            )
            self._failures = 0
            self._logged.clear()
