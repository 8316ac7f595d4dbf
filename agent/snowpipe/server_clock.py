"""This machine's clock against Snowflake's: the `Date` of its answers, over verified TLS or loopback."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from agent.clock.system_clock import TOLERATED_S, is_synchronised, off

_log = logging.getLogger(__name__)

# Up to this difference tokens are signed with our own clock; the rest of the minute is for slow networks.
_SIGNING_TOLERANCE_S = 5.0
# A Date is truncated to seconds, and the server's own clock may be off by as much again.
_DATE_S = 1.0
_SERVER_ERROR_S = 1.0
_PLAUSIBLE_YEARS = range(2020, 2101)


@dataclass(frozen=True, slots=True)
class ServerTime:
    """At `boot_s` of the boot-time clock the server's clock showed boot_s + offset_s, +/- error_s."""

    boot_s: float
    offset_s: float
    error_s: float


class ServerClock:
    """Keeps the last answer's Date against the boot-time clock, which no NTP step moves.

    A device in between may answer with a wrong Date. So after a refused token the other clock is tried,
    and the one that was accepted stays in use while the two differ; ours only if it is synchronised.
    One thread calls observe() and refused(), any thread may read.
    """

    def __init__(
        self,
        wall_s: Callable[[], float],
        boot_s: Callable[[], float],
        is_synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        self.boot_s = boot_s
        self._observed: ServerTime | None = None
        self._wall_s = wall_s
        self._is_synchronised = is_synchronised
        self._is_off = False
        self._is_own_right = False  # our own clock was accepted, or is to be tried, against the server's
        self._signed_with_own = True

    @property
    def last(self) -> ServerTime | None:
        """The server's time; None before an answer, and while our own clock proved right against it."""
        return None if self._is_own_right else self._observed

    def observe(self, headers: Mapping[str, str], asked_s: float) -> None:
        """Take the Date of an answer, also of a refusal; the request was sent at boot-time `asked_s`."""
        date = date_of(headers)
        if date is None or "age" in headers:  # an answer from a cache: its Date is old
            return
        now_s = self.boot_s()
        # The answer was dated between the request and now, within the second of its Date.
        offset_s = date.timestamp() + _DATE_S / 2 - (asked_s + now_s) / 2
        error_s = _DATE_S / 2 + (now_s - asked_s) / 2 + _SERVER_ERROR_S
        self._observed = ServerTime(now_s, offset_s, error_s)
        if not self._differs():
            self._is_own_right = False
        self._log_change()

    def ahead_s(self) -> float | None:
        """Seconds that the wall clock is ahead of the server's, negative if slow; None as for `last`."""
        return None if self._is_own_right else self._difference_s()

    def now_s(self) -> float:
        """The time for signing, seconds since 1970: ours, or the server's if they differ too much."""
        observed = self._observed
        self._signed_with_own = observed is None or self._is_own_right or not self._differs()
        if observed is None or self._signed_with_own:
            return self._wall_s()
        return self.boot_s() + observed.offset_s

    def refused(self) -> bool:
        """A token signed at the last now_s() was refused. True if the next now_s() is of the other clock."""
        if not self._differs():
            return False
        use_own = not self._signed_with_own
        if use_own and not self._is_synchronised():
            return False
        self._is_own_right = use_own
        if use_own:
            _log.info("clock: a token signed with the server's time was refused; trying this machine's time")
        return True

    def _difference_s(self) -> float | None:
        observed = self._observed
        return None if observed is None else self._wall_s() - self.boot_s() - observed.offset_s

    def _differs(self) -> bool:
        difference_s, observed = self._difference_s(), self._observed
        if difference_s is None or observed is None:
            return False
        # After a slow answer the difference is known to half of its duration only.
        return abs(difference_s) > max(_SIGNING_TOLERANCE_S, observed.error_s)

    def _log_change(self) -> None:
        ahead_s = self._difference_s() or 0.0
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
    """The server's Date, if it is one of this century; without a zone it is GMT (RFC 9110, 5.6.7)."""
    try:
        date = parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, OverflowError, TypeError, IndexError):  # what the parser raises for malformed dates
        return None
    if date.year not in _PLAUSIBLE_YEARS:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
