"""One append and the rows it was made from; what follows when it fails."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from agent.errors import OutcomeUnknownError, RowsRefusedError, SnowpipeError, TooLargeError, UnreachableError
from agent.log.message_ids import fields
from agent.outbox import Batch, Position, RowSource
from agent.snowpipe.channel import Append, Channel
from agent.uploader.refused_rows import RefusedRows
from agent.uploader.request_size import MAX_ROWS, RequestSize

_log = logging.getLogger(__name__)

_TOLERANCE = 1.25


@dataclass(frozen=True, slots=True)
class AppendRequest:
    """An append and the rows it was made from."""

    append: Append
    batch: Batch

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return len(self.batch.rows)

    @property
    def plain_bytes(self) -> int:
        """Its uncompressed size."""
        return self.append.body.plain_bytes


def prepare(source: RowSource, channel: Channel, after: Position, size: RequestSize) -> AppendRequest | None:
    """The next rows after a position, as many as the size allows, at least one; None if there are none.

    While there is a suspect, one: the first row that is accepted decides about those passed over.
    """
    limit = MAX_ROWS if source.suspect is None else 1
    while batch := source.after(after, limit, max_bytes=size.plain_bytes):
        rows, plain_bytes = len(batch.rows), sum(map(len, batch.rows))
        # A source counts rows as stored, and the last row may exceed the limit: much for few rows.
        if rows > 1 and plain_bytes > size.plain_bytes * _TOLERANCE:
            limit = max(1, rows * size.plain_bytes // plain_bytes)
            continue
        body = channel.compress(batch.rows)
        if len(body.data) <= size.wire_bytes or rows == 1:
            return AppendRequest(Append(body, batch.first_token, batch.last_token), batch)
        limit = rows // 2
    return None


def is_too_large_for_the_way(
    error: SnowpipeError, request: AppendRequest, size: RequestSize, elapsed_s: float
) -> bool:
    """Learn from an append without an answer of Snowflake's. True if the next one has to be smaller."""
    if error.from_snowflake or isinstance(error, UnreachableError | RowsRefusedError):
        return False
    if error.status is not None and isinstance(error, OutcomeUnknownError):
        return False  # an answer came through: the way takes this size
    return size.broke(request.rows, request.plain_bytes, elapsed_s)


def has_rows_to_try(
    error: RowsRefusedError,
    request: AppendRequest,
    source: RowSource,
    size: RequestSize,
    refused: RefusedRows,
    now: float,
) -> bool:
    """Decide what follows from a refused append: True if other rows are tried next, False to wait.

    Marks and withdraws the suspect of the source.
    """
    last, suspect = request.batch.last, source.suspect
    if size.refused(request.rows, request.plain_bytes, is_too_large=isinstance(error, TooLargeError)):
        return True
    if suspect is not None and last > suspect:
        if refused.refused_in_trial(last) and source.has_after(last):
            return True
        refused.withdrawn(suspect, now)  # first: the disk may fail, and what fails may be stored after all
        source.withdraw_suspect()
        return False
    if not refused.refused(last, now):
        return refused.retries_soon
    if not source.has_after(last):
        return False
    source.mark_suspect(last)
    refused.begin_trial()
    _log.warning(
        "channel %s: a row is refused on its own; the rows after it are tried (%s)",
        source.channel,
        error,
        extra=fields(channel=source.channel, seq=source.seq(last), error=error),
    )
    return True
