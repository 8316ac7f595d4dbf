"""A change of channel: the delay before it, the position of the old one, how long that is asked for."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.errors import ChannelLostError, SnowpipeError, TransientError
from agent.log.message_ids import fields
from agent.outbox import RowSource
from agent.snowpipe.channel import Channel
from agent.snowpipe.refusal import GONE
from agent.uploader.channel_opening import ChannelOpening, has_uncommitted
from agent.uploader.commit_recorder import CommitRecorder

_log = logging.getLogger(__name__)

# Snowflake has room for 2,000 channels per pipe, and deletes unused ones after 30 days.
_FIRST_DELAY_S = 60.0
_LONGEST_DELAY_S = 86_400.0
_DOUBLINGS = 12  # enough for the longest delay; keeps the power small
# A channel of another pipe is given up soon: the pipe may have been dropped when the new one was made. One of
# the same pipe is refused for the same reasons as a new channel would be, so there is no hurry.
_OTHER_PIPE_PATIENCE_S = 60.0
_SAME_PIPE_PATIENCE_S = 3_600.0
# For answers that usually pass (5xx, 429, a page of a device in between), but not for this channel.
_LONGEST_PATIENCE_S = 86_400.0
_TIMEOUT, _TOO_MANY = 408, 429


def switch_delay_s(switches: int, since_s: float) -> float:
    """Seconds to wait before the next switch, after so many without a commit, the last one `since_s` ago.

    0 after a commit. `since_s` may be wrong in both directions: it survives restarts through the wall clock.
    """
    if switches == 0:
        return 0.0
    delay_s = min(_FIRST_DELAY_S * 2.0 ** min(switches - 1, _DOUBLINGS), _LONGEST_DELAY_S)
    return min(max(0.0, delay_s - since_s), delay_s)


class ChannelSwitch:
    """One switch of a source to another channel. `now` is in seconds of `monotonic_s`."""

    def __init__(self, source: RowSource, monotonic_s: Callable[[], float]) -> None:
        self._source = source
        self._monotonic_s = monotonic_s
        self._allowed_at: float | None = None
        # When the latest failure in a row was, of either kind, and for how long they have lasted in all.
        self._refused_at: float | None = None
        self._failed_at: float | None = None
        self._refused_s = self._failed_s = 0.0

    def check(self, channel: str, now: float, wall_us: int) -> None:
        """Raise TransientError while switches follow one another too quickly."""
        if self._allowed_at is None:
            switches, switched_us = self._source.recent_switches()
            self._allowed_at = now + switch_delay_s(switches, (wall_us - switched_us) / 1e6)
        if now < self._allowed_at:
            raise TransientError(
                f"channel {channel}: its change has to wait, nothing was committed since the last one",
                hint="does another agent run with a copy of this outbox, or under this agent id?",
                retry_after=self._allowed_at - now,
            )

    def adopt(self, channel: Channel, opening: ChannelOpening, commits: CommitRecorder, now: float) -> bool:
        """Open the old channel, which fences it, and record its position if it is ours.

        True if that advanced the committed position. Raises SnowpipeError until it is given up.
        """
        try:
            status = opening.open(channel, now)
            position = commits.position_of(status.committed_token)
            if position is None:
                return False
            commits.report_if_back(status, position)
            return commits.reopened(channel.name, status, max(position, self._source.committed), now)
        except SnowpipeError as error:
            # Not `now`: a sign-in before it, on a slow way, is no time in which it was refused.
            if not self.gives_up(error, self._monotonic_s()):
                raise
            _log.error(
                "channel %s is given up (%s): rows that it had taken and not confirmed may arrive twice",
                channel.name,
                error,
                extra=fields(channel=channel.name, error=error),
            )
            return False

    def gives_up(self, error: SnowpipeError, now: float) -> bool:
        """Note that the old channel was not opened. True if it has been asked for long enough.

        Never for a failure that every channel has: no connection, no answer, no sign-in. Time in which there
        were only such failures does not count.
        """
        is_answered = not error.is_of_account and (
            error.status is not None or isinstance(error, ChannelLostError)
        )
        is_refused = is_answered and _is_lasting(error)
        if is_answered:
            self._failed_s += now - self._failed_at if self._failed_at is not None else 0.0
        if is_refused:
            self._refused_s += now - self._refused_at if self._refused_at is not None else 0.0
        self._failed_at, self._refused_at = now if is_answered else None, now if is_refused else None
        patience_s = _OTHER_PIPE_PATIENCE_S if self._source.is_other_pipe() else _SAME_PIPE_PATIENCE_S
        is_long = self._failed_s >= _LONGEST_PATIENCE_S or self._refused_s >= patience_s
        return is_answered and is_long


def _is_lasting(error: SnowpipeError) -> bool:
    """True if Snowflake itself refuses this channel."""
    # Gone: the pipe has moved to another host. Uncommitted: the channel is there, and its opening waits.
    if not error.from_snowflake or error.status == GONE or has_uncommitted(error):
        return False
    is_refusal = 400 <= (error.status or 0) < 500 and error.status not in {_TIMEOUT, _TOO_MANY}  # noqa: PLR2004 - RFC 9110 15.5
    return is_refusal or isinstance(error, ChannelLostError)
