"""Records what a channel status says: the committed position, and rows that were not loaded."""

from __future__ import annotations

import logging

from agent.errors import SnowpipeError
from agent.log.message_ids import MessageId, fields
from agent.outbox import ErrorCount, Position, Rejected, RowSource
from agent.snowpipe.wire import ChannelStatus
from agent.uploader.error_ranges import SentBatches, new_errors

_log = logging.getLogger(__name__)


class CommitRecorder:
    """Applies the statuses of one source's channel to its source.

    `now` is in seconds of a monotonic clock. Methods raise OutboxError as the source does.
    """

    def __init__(self, source: RowSource) -> None:
        self._source = source
        self._batches: SentBatches | None = None  # None until the channel is opened
        self.rows_committed = 0
        self.last_commit_at: float | None = None

    def start_over(self) -> None:
        """The channel is another one, or the outbox was replaced."""
        self._batches = None

    @property
    def count_due_at(self) -> float | None:
        """When the error count of the rows committed last is final; None if it is."""
        return self._batches.count_due_at if self._batches is not None else None

    @property
    def final(self) -> Position:
        """Everything up to here is committed, and no error among it can be counted any more."""
        return (self._batches or self._stored_batches(0.0)).final

    def position_of(self, token: str | None) -> Position | None:
        """The position of a token in our history: the beginning for no token, None for a foreign one."""
        return self._source.position_of(token) if token else (0, 0)

    def is_before_ours(self, position: Position) -> bool:
        """True if a commit has passed this position."""
        return position < self._source.committed and self._source.committed_token() is not None

    def report_if_back(self, status: ChannelStatus, position: Position) -> None:
        """A channel without a token was deleted; one with an earlier token than ours has lost rows."""
        if status.committed_token and self.is_before_ours(position):
            self._source.went_back(position)

    def polled(self, channel: str, status: ChannelStatus) -> Position:
        """The position in a polled status. Raises SnowpipeError if it is not one of ours: reopen."""
        position = self.position_of(status.committed_token)
        if position is None:
            raise SnowpipeError(
                f"the channel {channel} moved to a position that we did not send",
                hint="another agent writes to this channel; it is reopened to read its position",
            )
        if self.is_before_ours(position):
            raise SnowpipeError(f"the channel {channel} went back to a position before ours")
        return position

    def sent(self, last: Position) -> None:
        """A batch up to `last` was accepted."""
        if self._batches is not None:
            self._batches.sent(last)

    def reopened(self, channel: str, status: ChannelStatus, position: Position, now: float) -> bool:
        """As record(), for the status of an open: what was sent after `position` is sent again."""
        if self._batches is None:
            self._batches = self._stored_batches(now)
        self._batches.reopened(position, now)
        return self.record(channel, status, position, now)

    def _stored_batches(self, now: float) -> SentBatches:
        known = self._source.error_count()
        return SentBatches(known.bounds if known is not None else (), self._source.committed, now)

    def record(self, channel: str, status: ChannelStatus, position: Position, now: float) -> bool:
        """Record the position, and hold the rows that new errors are among. True if the position advanced.

        A suspect before the position, and the rows refused after it, are set aside.
        """
        before, known = self._source.committed, self._source.error_count()
        batches = self._batches or SentBatches((), before, now)
        batches.committed(position, now)
        errors, is_readable = known or ErrorCount(0, 0), False
        if status.created_on_ms is not None and status.rows_error_count is not None:
            errors, is_readable = ErrorCount(status.created_on_ms, status.rows_error_count), True
        rejected = self._rejected(status, batches, new_errors(known, errors), position)
        aside: list[Position] = []
        if position > before or rejected is not None or errors != known:
            stored = ErrorCount(errors.created_on_ms, errors.rows, batches.bounds)
            aside = self._source.commit(position, stored, rejected)
        # Not before errors are held: what is final may be purged, and its count is not asked for again.
        batches.counted(now, is_readable=is_readable)
        if rejected is not None:
            self._report_rejected(channel, status, rejected)
        if aside:
            self._report_set_aside(channel, aside)
        if position <= before:
            return False
        self.rows_committed += max(0, position[1] - before[1]) if position[0] == before[0] else 0
        self.last_commit_at = now
        return True

    def _rejected(
        self, status: ChannelStatus, batches: SentBatches, count: int, position: Position
    ) -> Rejected | None:
        if count == 0:
            return None
        found = batches.with_errors(count, self.position_of(status.last_error_upper_bound), position)
        if found is None:
            return None
        return Rejected(*found, f"{count} not loaded: {status.last_error_message or 'no reason given'}")

    def _report_rejected(self, channel: str, status: ChannelStatus, rejected: Rejected) -> None:
        _log.error(
            "channel %s: Snowflake could not load some of the rows up to %s (%s); %s",
            channel,
            status.last_error_upper_bound or status.committed_token,
            rejected.reason,
            self._source.where_kept,
            extra=fields(MessageId.ROWS_REJECTED, channel=channel, seq=self._source.seq(rejected.last)),
        )

    def _report_set_aside(self, channel: str, aside: list[Position]) -> None:
        _log.error(
            "channel %s: %s set aside: Snowflake refused each on its own and accepted a row after it; %s",
            channel,
            "a row was" if len(aside) == 1 else f"{len(aside)} rows were",
            self._source.where_kept,
            extra=fields(MessageId.ROW_SET_ASIDE, channel=channel, seq=self._source.seq(aside[0])),
        )
