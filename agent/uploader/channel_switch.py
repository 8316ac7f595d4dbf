"""Limits of a change of channel: the delay before it, and how long the old channel is asked."""

from __future__ import annotations

from agent.errors import ChannelLostError, SnowpipeError

# Snowflake has room for 2,000 channels per pipe, and deletes unused ones after 30 days.
_FIRST_DELAY_S = 60.0
_LONGEST_DELAY_S = 86_400.0
_DOUBLINGS = 12  # enough for the longest delay; keeps the power small
# A channel of another pipe is given up soon: the pipe may have been dropped when the new one was made. One of
# the same pipe is refused for the same reasons as a new channel would be, so there is no hurry.
_OTHER_PIPE_PATIENCE_S = 60.0
_SAME_PIPE_PATIENCE_S = 3_600.0
# For answers that usually pass (5xx, 429), but not for this channel.
_LONGEST_PATIENCE_S = 86_400.0
_NOT_AUTHENTICATED, _TIMEOUT, _TOO_MANY = 401, 408, 429


def switch_delay_s(switches: int, since_s: float) -> float:
    """Seconds to wait before the next switch, after so many without a commit, the last one `since_s` ago.

    0 after a commit. `since_s` may be wrong in both directions: it survives restarts through the wall clock.
    """
    if switches == 0:
        return 0.0
    delay_s = min(_FIRST_DELAY_S * 2.0 ** min(switches - 1, _DOUBLINGS), _LONGEST_DELAY_S)
    return min(max(0.0, delay_s - since_s), delay_s)


class Patience:
    """How long the old channel is asked for its position before it is given up."""

    def __init__(self) -> None:
        self._refused_at: float | None = None
        self._failed_at: float | None = None

    def is_exhausted(self, error: SnowpipeError, now: float, *, is_other_pipe: bool) -> bool:
        """Note one more failure at `now`, in seconds of a monotonic clock.

        Never for a failure that any channel has: no connection, no answer, credentials not accepted.
        """
        if not isinstance(error, ChannelLostError) and error.status in {None, _NOT_AUTHENTICATED}:
            return False
        self._failed_at = now if self._failed_at is None else self._failed_at
        if now - self._failed_at >= _LONGEST_PATIENCE_S:
            return True
        if not _is_lasting(error):
            return False
        self._refused_at = now if self._refused_at is None else self._refused_at
        patience_s = _OTHER_PIPE_PATIENCE_S if is_other_pipe else _SAME_PIPE_PATIENCE_S
        return now - self._refused_at >= patience_s


def _is_lasting(error: SnowpipeError) -> bool:
    if isinstance(error, ChannelLostError):
        return True
    status = error.status or 0
    return 400 <= status < 500 and status not in {_TIMEOUT, _TOO_MANY}  # noqa: PLR2004 - RFC 9110 15.5
