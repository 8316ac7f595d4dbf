"""What follows from a failure: whether the position is lost, who can repair it, how long to wait."""

from __future__ import annotations

from collections.abc import Callable

from agent.backoff import Backoff
from agent.errors import (
    AgentError,
    AuthError,
    OutboxUnavailableError,
    RowsRefusedError,
    SnowpipeError,
    TransientError,
)
from agent.log.message_ids import MessageId

_FIRST_DELAY_S = 1.0
# Honour Retry-After, never below the backoff (a server may say 0) and at most this much above it: a
# misconfigured proxy must not stop delivery for a day.
_LONGEST_RETRY_AFTER_S = 3600.0


def needs_operator(failure: AgentError | None) -> bool:
    """True for failures that hold every row until a person changes something; retried slowly."""
    return isinstance(failure, AuthError | RowsRefusedError)


def is_position_lost(failure: AgentError) -> bool:
    """True if the request may have been processed, or the channel is lost: it has to be reopened."""
    return isinstance(failure, SnowpipeError) and not (
        isinstance(failure, TransientError) or needs_operator(failure)
    )


def message_id_of(failure: AgentError) -> MessageId:
    """The id under which the journal has this failure."""
    match failure:
        case AuthError():
            return MessageId.CREDENTIALS_REFUSED
        case RowsRefusedError():
            return MessageId.ROWS_REFUSED
        case OutboxUnavailableError():
            return MessageId.DISK_FULL
        case _:
            return MessageId.SNOWFLAKE_UNREACHABLE


class RetryDelay:
    """Seconds to wait after each failure of a series."""

    def __init__(self, *, max_s: float, random: Callable[[], float]) -> None:
        self._max_s = max_s
        self._random = random
        self._backoff = Backoff(first=_FIRST_DELAY_S, cap=max_s, random=random)

    @property
    def failures(self) -> int:
        """The length of the series so far."""
        return self._backoff.failures

    def after(self, failure: AgentError) -> float:
        """Count one more failure. Returns the seconds until the next try."""
        is_first = self._backoff.failures == 0
        delay = self._backoff.next()
        if needs_operator(failure):
            # At least half the cap, and without a limit on the number of tries.
            return self._max_s * (1.0 - self._random() / 2)
        # The first unknown outcome is resolved immediately, by reopening the channel.
        if is_first and is_position_lost(failure):
            return 0.0
        asked_s = failure.retry_after if isinstance(failure, SnowpipeError) else None
        return max(delay, min(asked_s or 0.0, delay + _LONGEST_RETRY_AFTER_S))

    def reset(self) -> None:
        """End the series of failures."""
        self._backoff.reset()
