"""This machine's clock against Snowflake's: the `Date` of its answers, over verified TLS or loopback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from agent.clock.system_clock import off

_log = logging.getLogger(__name__)

# Snowflake accepts tokens whose times are off by about a minute: up to there our own clock is used.
TOLERATED_S = 60.0
# A Date is truncated to seconds, and the server's own clock may be off by as much again.
_DATE_S = 1.0
_SERVER_ERROR_S = 1.0


@dataclass(frozen=True, slots=True)
class ServerTime:
    """At `boot_s` of the boot-time clock the server's clock showed boot_s + offset_s, +/- error_s."""

    boot_s: float
    offset_s: float
    error_s: float


class ServerClock:
    """Keeps the last answer's Date against the boot-time clock, which no NTP step moves.

    One thread calls observe(), any thread may read.
    """

    def __init__(self, wall_s: Callable[[], float], boot_s: Callable[[], float]) -> None:
        self.boot_s = boot_s
        self.last: ServerTime | None = None
        self._wall_s = wall_s
        self._is_off = False

    def observe(self, headers: Mapping[str, str], asked_s: float) -> None:
        """Take the Date of an answer, also of a refusal; the request was sent at boot-time `asked_s`."""
        date = date_of(headers)
        if date is None or "age" in headers:  # an answer from a cache: its Date is old
            return
        now_s = self.boot_s()
        # The answer was dated between the request and now, within the second of its Date.
        offset_s = date.timestamp() + _DATE_S / 2 - (asked_s + now_s) / 2
        self.last = ServerTime(now_s, offset_s, _DATE_S / 2 + (now_s - asked_s) / 2 + _SERVER_ERROR_S)
        self._log_change()

    def ahead_s(self) -> float | None:
        """Seconds that the wall clock is ahead of the server's, negative if slow; None before an answer."""
        return None if self.last is None else self._wall_s() - self.boot_s() - self.last.offset_s

    def now_s(self) -> float:
        """The time for signing, seconds since 1970: ours, or the server's if they differ too much."""
        ahead_s = self.ahead_s()
        if self.last is None or ahead_s is None or abs(ahead_s) <= TOLERATED_S:
            return self._wall_s()
        return self.boot_s() + self.last.offset_s

    def _log_change(self) -> None:
        ahead_s = self.ahead_s() or 0.0
        if (abs(ahead_s) > TOLERATED_S) != self._is_off:
            self._is_off = not self._is_off
            if self._is_off:
                text = (
                    "clock: by Snowflake's it is %s; tokens are signed with Snowflake's time; see timedatectl"
                )
                _log.warning(text, off(ahead_s))
            else:
                _log.info("clock: agrees with Snowflake's again")


def date_of(headers: Mapping[str, str]) -> datetime | None:
    """The server's Date, if it can be parsed; without a zone it is taken as GMT (RFC 9110, 5.6.7)."""
    try:
        date = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
