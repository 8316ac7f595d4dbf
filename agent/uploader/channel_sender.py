"""One channel and the rows that go through it: opened, fed, watched, and resumed after any doubt."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent.backoff import Backoff
from agent.errors import (
    AgentError,
    AuthError,
    OutboxFullError,
    OutboxReplacedError,
    RowsRefusedError,
    SnowpipeError,
    TooLargeError,
    TransientError,
)
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.outbox import Batch, ErrorCount, Position, Rejected, Source
from agent.snowpipe import wire
from agent.snowpipe.channel import Append, Channel
from agent.snowpipe.wire import ChannelStatus
from agent.uploader.rate_limiter import RateLimiter

_log = logging.getLogger(__name__)

# The first look after an append, and the longest pause between two looks for its commitment.
_FIRST_POLL_S = 0.25
_LAST_POLL_S = 5.0
# While more rows wait to be sent, looking more often than this only slows the sending.
_BUSY_POLL_S = 1.0
# A commit that does not advance for so long is doubt: reopen and ask again.
_STALLED_S = 600.0
_FIRST_DELAY_S = 1.0
# Retry-After wins over our own delays, but no proxy shuts a door's mouth for a day.
_LONGEST_RETRY_AFTER_S = 3600.0
# Several requests fit into a second's worth of bytes, so that the byte rate can be used in full.
_BATCHES_PER_SECOND = 6
_BATCH_ROWS = 20_000
_BATCH_BYTES = 4_000_000  # uncompressed; what bounds the memory, however much waits
# No proxy is so narrow that requests have to be smaller than this for good.
_LEAST_REQUEST_BYTES = 65_536
# How soon rows that wait for the clock are looked at again: the clock may be set at any moment.
_LOOK_S = 1.0
# So many rows refused in a row, with none accepted since, are not the rows' fault.
_REFUSED_IN_A_ROW = 25

State = Literal["idle", "sending", "waiting", "holding"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What Snowflake lets one channel do; see the configuration's [uploader]."""

    max_request_bytes: int
    max_requests_per_second: int
    max_bytes_per_second: int
    backoff_max_seconds: float


class ChannelSender:
    """Sends the rows of one source in order, one request in flight, until each is committed.

    step() does one bounded thing. Not thread-safe.
    """

    def __init__(
        self,
        source: Source,
        open_channel: Callable[[str], Channel],
        limits: Limits,
        pace: RateLimiter,
        *,
        monotonic_s: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        """`pace` is shared with the other lanes: Snowflake counts them together or apart, we together."""
        self.source = source
        self.channel = open_channel(source.channel)
        self.failure: AgentError | None = None
        self.not_before = 0.0
        self.rows_committed = 0
        self.last_commit_at: float | None = None
        self._open_channel = open_channel
        self._said_open = ""
        self._limits = limits
        self._max_request_bytes = limits.max_request_bytes
        self._pace = pace
        self._monotonic_s = monotonic_s
        self._random = random
        self._backoff = Backoff(first=_FIRST_DELAY_S, cap=limits.backoff_max_seconds, random=random)
        self._faults = FailureLog(_log, "uploader", monotonic_s, recovery=MessageId.SNOWFLAKE_RECOVERED)
        self._start_over()

    def _start_over(self) -> None:
        """Nothing is known of the channel's position, and nothing is in doubt any more."""
        self._sent = self.source.committed
        self._reset_to: str | None = None
        self._append: tuple[Append, Batch] | None = None
        self._poll_at: float | None = None
        self._poll_delay = _FIRST_POLL_S
        self._advanced_at = 0.0
        self._moved_from = self._sent  # where the committed position stood before it last moved
        # Narrowing down to the row that is refused: at most so many rows in a batch, until so far.
        self._narrow: tuple[int, Position] | None = None
        # A refusal may have used up the continuation token: reopen, but lose nothing by it.
        self._reopen_when_committed = False
        self._refused: list[Position] = []
        # After so many refusals that it cannot be the rows: try them singly, until one is accepted.
        self._distrusted = False

    @property
    def failures(self) -> int:
        """How many tries failed since something last went well."""
        return self._backoff.failures

    def step(self) -> float | None:
        """Do one bounded thing.

        Returns the seconds after which the next step has something to do, None if only new rows
        give it something. Never raises SnowpipeError; OutboxError passes.
        """
        now = self._monotonic_s()
        if now < self.not_before:
            return self.not_before - now
        try:
            return self._try(now)
        except OutboxReplacedError:
            self.channel.forget()
            self._start_over()
            # Not at once: a disk that damages each new file must not be filled with old ones.
            return self._wait(self._backoff.next())
        except OutboxFullError as error:
            # What could not be written down is asked for again; sending waits for the disk.
            self._note(error)
            return self._wait(self._backoff.next())

    def _try(self, now: float) -> float | None:
        try:
            delay = self._advance(now)
        except SnowpipeError as error:
            return self._wait(self._failed(error))
        self.not_before = 0.0
        self.failure = None
        if delay is None:
            self._went_well()
        return delay

    def _wait(self, delay: float) -> float:
        self.not_before = self._monotonic_s() + delay
        return delay

    def _note(self, failure: AgentError) -> None:
        self.failure = failure
        self._faults.failed(failure, _event_of(failure), channel=self.channel.name)

    # --- one step -----------------------------------------------------------------------------

    def _advance(self, now: float) -> float | None:
        """Open if we must, else look for commitment if it is time, else send, else wait."""
        if self.channel.name != self.source.channel:
            self.channel = self._open_channel(self.source.channel)
            self._start_over()
        if not self.source.needs_channel() and self._sent <= self.source.committed:
            return None
        pause = self._pace.ready_in(now)
        if not self.channel.is_open:
            return pause or self._open(now)
        uncommitted = self._sent > self.source.committed
        if uncommitted and self._poll_at is not None and now >= self._poll_at:
            return pause or self._poll(now)
        if self._reopen_when_committed and not uncommitted:
            self._reopen_when_committed = False
            self.channel.forget()
            return 0.0
        if self._append is None and not self._reopen_when_committed:
            self._append = self._next_append()
        if self._append is not None:
            return self._pace.ready_in(now, self._append[0].body.plain_bytes) or self._send(
                *self._append, now
            )
        waits = [self._poll_at - now] if uncommitted and self._poll_at is not None else []
        if self.source.max_wait_s is not None:
            waits.append(min(self.source.max_wait_s, _LOOK_S))
        return max(0.0, min(waits)) if waits else None

    def _open(self, now: float) -> float:
        self._pace.spend(now)
        self._append = None
        reset_to, self._reset_to = self._reset_to, None
        status = self.channel.open(offset_token=reset_to)
        position = self._position_of(status.committed_token)
        if position is None:
            self.channel.forget()
            self.source.start_generation(
                f"the channel {self.channel.name} holds rows that this outbox has no record of: "
                "was it restored from a backup, or the SD card copied?"
            )
            return 0.0
        ours = self.source.committed_token()
        if position < self.source.committed and reset_to is None and ours is not None:
            # Deleted after 30 idle days, or behind what it once confirmed: set our position again.
            self._reset_to = ours
            self.channel.forget()
            return 0.0
        self._sent = max(position, self.source.committed)
        self._take_status(status, self._sent, now)
        self._poll_at = None
        self._reopen_when_committed = False
        # Said once per channel: what makes it necessary to open it again is said by itself.
        level = logging.DEBUG if self._said_open == self.channel.name else logging.INFO
        self._said_open = self.channel.name
        _log.log(
            level,
            "channel %s is open, committed up to %s",
            self.channel.name,
            status.committed_token,
            extra=fields(channel=self.channel.name),
        )
        return 0.0

    def _position_of(self, token: str | None) -> Position | None:
        """Where a token stands in our history; the very beginning for none, None if it is not ours."""
        return (0, 0) if token is None else self.source.position_of(token)

    def _next_append(self) -> tuple[Append, Batch] | None:
        limit = self._narrow[0] if self._narrow else _BATCH_ROWS
        max_bytes = min(self._limits.max_bytes_per_second // _BATCHES_PER_SECOND, _BATCH_BYTES)
        while batch := self.source.after(self._sent, limit, max_bytes=max_bytes):
            body = wire.compress(batch.rows)
            if len(body.data) <= self._max_request_bytes or len(batch.rows) == 1:
                return Append(body, batch.first_token, batch.last_token), batch
            limit = len(batch.rows) // 2
        return None

    def _send(self, append: Append, batch: Batch, now: float) -> float:
        self._pace.spend(now, append.body.plain_bytes)
        try:
            self.channel.append(append)
        except TransientError:
            append.tries.count += 1
            raise
        self._append = None
        if self._sent == self.source.committed:
            self._advanced_at = now  # nothing was uncommitted: the wait for a commit begins here
        self._sent = batch.last
        self._refused.clear()
        self._distrusted = False
        if self._narrow is not None and batch.last >= self._narrow[1]:
            self._narrow = None
        self._poll_delay = _FIRST_POLL_S
        if self._poll_at is None or not self.source.has_after(self._sent):
            self._poll_at = self._monotonic_s() + _FIRST_POLL_S
        return 0.0

    def _poll(self, now: float) -> float:
        self._pace.spend(now)
        status = self.channel.status()
        before = self.source.committed
        position = self._position_of(status.committed_token)
        if position is None:
            self.channel.forget()
            raise SnowpipeError(
                f"the channel {self.channel.name} moved to a position that we did not send",
                hint="another agent writes to this channel; it is opened again to see",
            )
        self._take_status(status, position, now)
        if self.source.committed > before:
            self._poll_delay = _FIRST_POLL_S
        elif now - self._advanced_at > _STALLED_S:
            self._append = None
            self.channel.forget()
            raise SnowpipeError(
                f"nothing sent was committed for {_STALLED_S / 60:.0f} minutes",
                hint="the channel is opened again; is Snowflake ill? status.snowflake.com",
            )
        if self.source.committed >= self._sent:
            self._poll_at = None
            return 0.0
        busy = self.source.has_after(self._sent)
        self._poll_at = self._monotonic_s() + max(self._poll_delay, _BUSY_POLL_S if busy else 0.0)
        self._poll_delay = min(self._poll_delay * 2, _LAST_POLL_S)
        return 0.0

    # --- what a status says -----------------------------------------------------------------------

    def _take_status(self, status: ChannelStatus, position: Position, now: float) -> None:
        """Write down what is committed, and which rows the server counted an error among."""
        before, errors = self.source.committed, ErrorCount(status.created_on_ms, status.rows_error_count)
        known = self.source.error_count()
        rejected = self._rejected(status, known, errors, position)
        if position <= before and rejected is None and errors == known:
            return
        self.source.commit(position, errors, rejected)
        if rejected is not None:
            _log.error(
                "channel %s: Snowflake could not load some of the rows up to %s (%s); "
                "they are kept: badge-agent outbox list",
                self.channel.name,
                status.last_error_upper_bound or status.committed_token,
                rejected.reason,
                extra=fields(
                    MessageId.ROWS_REJECTED,
                    channel=self.channel.name,
                    seq=self.source.seq(rejected.last),
                ),
            )
        if position > before:
            self.rows_committed += max(0, position[1] - before[1]) if position[0] == before[0] else 0
            self.last_commit_at = self._advanced_at = now
            self._moved_from = before
            self._went_well()

    def _rejected(
        self, status: ChannelStatus, known: ErrorCount | None, errors: ErrorCount, position: Position
    ) -> Rejected | None:
        """The rows among which errors were counted since we last looked; None if there were none.

        Which rows were bad is not told, only an upper bound; the count never goes back while the
        channel lives, and begins at 0 when it was made anew.
        """
        counted_before = known.rows if known and known.created_on_ms == errors.created_on_ms else 0
        if errors.rows <= counted_before:
            return None
        after, reach = self.source.committed, max(position, self.source.committed)
        bound = self._position_of(status.last_error_upper_bound) or (0, 0)
        last = bound if after < bound <= max(position, self._sent) else reach
        if last <= after:
            last = self._sent
        if last <= after or (0, 0) < bound <= after:
            # Counted only after its token had moved: among the rows that moved last, or the one it names.
            after, last = self._moved_from, reach
            if last <= after:
                after, last = (bound[0], bound[1] - 1), bound
        if last in {after, (0, 0)}:
            return None
        count = errors.rows - counted_before
        return Rejected(after, last, f"{count} not loaded: {status.last_error_message or 'no reason given'}")

    # --- failures -----------------------------------------------------------------------------

    def _went_well(self) -> None:
        """Only a commit, or nothing left to do, ends a row of failures: a 200 alone proves too little."""
        self._backoff.reset()
        self._faults.recovered()

    def _failed(self, error: SnowpipeError) -> float:
        """Decide what the failure leaves us with. Returns the seconds until the next try."""
        first = self._backoff.failures == 0
        if isinstance(error, RowsRefusedError) and self._append is not None:
            append, batch = self._append
            self._append = None
            self._reopen_when_committed = True
            if self._narrow_down(error, append, batch):
                return 0.0
        in_doubt = not isinstance(error, TransientError | AuthError | RowsRefusedError)
        if in_doubt:
            self._append = None
            self.channel.forget()
        self._note(error)
        delay = self._backoff.next()
        if isinstance(error, AuthError | RowsRefusedError):
            # The slow pace: half the cap at least, for ever; a person has to change something.
            return self._limits.backoff_max_seconds * (1.0 - self._random() / 2)
        if isinstance(error, TransientError) and error.retry_after is not None:
            return min(error.retry_after, _LONGEST_RETRY_AFTER_S)
        # A first doubt is answered at once: the channel is opened again and tells where it stands.
        return 0.0 if in_doubt and first else delay

    def _narrow_down(self, error: RowsRefusedError, append: Append, batch: Batch) -> bool:
        """Halve the batch that was refused, or set its only row aside.

        Returns False when the refusals are not the rows' fault: then nothing is set aside.
        """
        if len(batch.rows) > 1:
            end = self._narrow[1] if self._narrow else batch.last
            self._narrow = (len(batch.rows) // 2, end)
            if isinstance(error, TooLargeError):
                # Something on the way takes less than Snowflake does; it will next time, too.
                self._max_request_bytes = max(len(append.body.data) // 2, _LEAST_REQUEST_BYTES)
            return True
        self._refused.append(batch.last)
        if len(self._refused) >= _REFUSED_IN_A_ROW:
            # Row after row is refused and none accepted: a proxy, or a pipe that changed.
            self.source.restore(self._refused)
            self._refused.clear()
            self._distrusted = True
            self._narrow = (1, batch.last)
            return False
        if not self._distrusted:
            self._narrow = None
        why = "too large" if isinstance(error, TooLargeError) else "refused"
        self.source.set_aside(batch.last, f"{why}: {error}")
        # Said once, not with every round of tries that ends in taking all of them back.
        level = logging.DEBUG if self._distrusted else logging.ERROR
        _log.log(
            level,
            "a row was set aside: %s; see badge-agent outbox list",
            error,
            extra=fields(
                MessageId.ROW_SET_ASIDE,
                channel=self.channel.name,
                seq=self.source.seq(batch.last),
                error=error,
            ),
        )
        return True


def _event_of(failure: AgentError) -> MessageId:
    match failure:
        case AuthError():
            return MessageId.CREDENTIALS_REFUSED
        case RowsRefusedError():
            return MessageId.ROWS_REFUSED
        case OutboxFullError():
            return MessageId.DISK_FULL
        case _:
            return MessageId.SNOWFLAKE_UNREACHABLE
