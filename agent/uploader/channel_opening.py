"""Opens a channel, for two minutes without discarding what it has not committed yet."""

from __future__ import annotations

from agent.errors import SnowpipeError
from agent.snowpipe.channel import Channel
from agent.snowpipe.refusal import UNCOMMITTED_DATA
from agent.snowpipe.wire import ChannelStatus

# As Snowflake's SDK does. Discarding is safe, as the rows are sent again; it costs the pipe time.
_WAIT_S = 120.0
RETRY_S = 3.0


class ChannelOpening:
    """One open of a channel, over as many tries as it takes. `now` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._waits_since: float | None = None

    def open(self, channel: Channel, now: float, offset_token: str | None = None) -> ChannelStatus:
        """Open; for the first two minutes only if nothing is uncommitted. Raises SnowpipeError."""
        may_discard = self._waits_since is not None and now - self._waits_since >= _WAIT_S
        try:
            status = channel.open(offset_token=offset_token, fail_on_uncommitted_rows=not may_discard)
        except SnowpipeError as error:
            if has_uncommitted(error) and self._waits_since is None:
                self._waits_since = now
            raise
        self._waits_since = None
        return status


def has_uncommitted(error: SnowpipeError) -> bool:
    """True if an open was refused because rows that the server has buffered are not committed yet."""
    return error.code == UNCOMMITTED_DATA
