"""Delivers one row source through one channel: open, append, poll for commit, resume.

Theory of operation
-------------------
States (`SenderState`), and what one step does in each:

    CLOSED           the channel's position is unknown        open it, read the committed token
    OPEN             every row sent is committed              prepare an append, or wait for rows
    SENDING          one append is prepared                   send it (the same bytes on every retry)
    AWAITING_COMMIT  rows are sent and not committed          prepare the next append, or poll
    DRAINING         an append was refused                    poll until all is committed, then close
    BACKING_OFF      a request or the outbox failed           wait, then resume the state before

Transitions:

    CLOSED           -> OPEN             the committed token is ours and recorded
    CLOSED           -> CLOSED           reopen at our own position; a switch to another channel
    OPEN, AWAITING   -> SENDING          the source has rows after the last row sent
    SENDING          -> AWAITING_COMMIT  accepted
    SENDING          -> DRAINING         rows refused (400, 413); the batch is bisected (refusals.py)
    AWAITING_COMMIT  -> OPEN             a poll reports the last row sent as committed
    DRAINING         -> CLOSED           the same; the refusal may have used up the continuation token
    any              -> CLOSED           unknown outcome, lost channel, foreign or stalled position
    any              -> BACKING_OFF -> the state above, once the delay has passed

While rows are uncommitted, polls are due on a timer in every state; a due poll precedes the next append.

Invariants:

 1. Sent is not committed. `_sent` is an assumption; only `source.commit()` moves `source.committed`, and
    only for what Snowflake has confirmed.
 2. One request is in flight, in source order without gaps; its continuation token is the last answer's.
 3. A retry of an append that was not processed has the same bytes and request id, and the next retry count.
 4. After an unknown outcome nothing is assumed: forget the position, reopen, read the committed token,
    resume after it. Opening discards what the server had buffered, so nothing is stored twice.
 5. A token of another history is never adopted: the source starts a new generation with a new channel.
    Before any change of channel the old one is opened, which fences it, and its position is committed
    (agent.outbox.channel_use). It is given up after some time if only it cannot be opened.
 6. The committed position is recorded before the state changes; if it cannot be, both stay and polls go on.
 7. Only a commit, or an empty source, ends a series of failures: a 200 does not.

Ownership: the thread that calls step() changes everything here. Other threads may read `state`,
`failure` and the counters, and may set `not_before` (retry_now) to end a wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from agent.errors import (
    AgentError,
    OutboxReplacedError,
    OutboxUnavailableError,
    RowsRefusedError,
    SnowpipeError,
    TooLargeError,
    TransientError,
)
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.outbox import Batch, ErrorCount, Position, Rejected, RowSource
from agent.settings import UploaderSettings
from agent.snowpipe import wire
from agent.snowpipe.channel import Append, Channel
from agent.snowpipe.wire import ChannelStatus
from agent.uploader.channel_switch import SwitchLimits
from agent.uploader.error_ranges import Progress, error_range, new_errors
from agent.uploader.failures import RetryDelay, is_position_lost, message_id_of
from agent.uploader.poll_timer import PollTimer
from agent.uploader.rate_limiter import RateLimiter
from agent.uploader.refusals import Refusals, Restore, SetAside, Split
from agent.uploader.request_size import MAX_ROWS, RequestSize

_log = logging.getLogger(__name__)

# If no commit advances for this long, the outcome counts as unknown: reopen.
_STALLED_S = 600.0
# How often to ask again for rows that wait for the clock: it may be set at any moment.
_CLOCK_WAIT_S = 1.0


class SenderState(Enum):
    """The states of a sender, described at the top of this module."""

    CLOSED = auto()
    OPEN = auto()
    SENDING = auto()
    AWAITING_COMMIT = auto()
    DRAINING = auto()
    BACKING_OFF = auto()


@dataclass(frozen=True, slots=True)
class _Request:
    """An append and the rows it was made from."""

    append: Append
    batch: Batch


class ChannelSender:
    """Sends the rows of one source in order, one request in flight, until each is committed.

    step() does one bounded thing. Not thread-safe.
    """

    def __init__(
        self,
        source: RowSource,
        open_channel: Callable[[str, str], Channel],
        settings: UploaderSettings,
        rate: RateLimiter,
        *,
        monotonic_s: Callable[[], float],
        wall_us: Callable[[], int],
        random: Callable[[], float],
    ) -> None:
        """`open_channel` takes a name and the key of a pipe.

        `rate` is shared by all senders: whether Snowflake counts channels together is not documented.
        """
        self.source = source
        self._address = source.channel, source.pipe
        self.channel = open_channel(*self._address)
        self.failure: AgentError | None = None
        self.not_before = 0.0
        self.rows_committed = 0
        self.last_commit_at: float | None = None
        self._open_channel = open_channel
        self._announced = ""  # the channel whose opening was logged
        self._size = RequestSize(settings)
        self._rate = rate
        self._monotonic_s = monotonic_s
        self._wall_us = wall_us
        self._switch_limits = SwitchLimits(source)
        self._delay = RetryDelay(max_s=settings.backoff_max_seconds, random=random)
        self._faults = FailureLog(_log, "uploader", monotonic_s, recovery=MessageId.SNOWFLAKE_RECOVERED)
        self._start_over()

    def _start_over(self) -> None:
        """Forget everything about the channel: its position, what was sent, what was refused."""
        self._enter(SenderState.CLOSED)
        self._sent = self.source.committed
        self._open_at: str | None = None  # the offset token to set at the next open
        self._poll_timer = PollTimer()  # while rows are uncommitted
        self._advanced_at = 0.0
        self._moved_from = self._sent  # the committed position before it last moved
        self._refusals = Refusals()

    def _enter(self, state: SenderState, request: _Request | None = None) -> None:
        """`request` is what is to be sent in SENDING."""
        self.state = self._resume = state
        self._request = request

    @property
    def failures(self) -> int:
        """Failed tries since the last commit or idle moment."""
        return self._delay.failures

    @property
    def _has_uncommitted(self) -> bool:
        return self._sent > self.source.committed

    def retry_now(self) -> None:
        """End the wait for the next try. From any thread."""
        self.not_before = 0.0

    def step(self) -> float | None:
        """Do one bounded thing.

        Returns the seconds after which the next step has something to do, None if only new rows
        give it something. Never raises SnowpipeError; OutboxError passes.
        """
        now = self._monotonic_s()
        if self.state is SenderState.BACKING_OFF:
            if now < self.not_before:
                return self.not_before - now
            self.state = self._resume
        try:
            return self._try(now)
        except OutboxReplacedError as error:
            self.channel.forget()
            self._start_over()
            # Not immediately: a disk that damages each new file must not be filled with old ones.
            return self._back_off(self._delay.after(error))
        except OutboxUnavailableError as error:
            # What could not be recorded is asked for again; sending waits for the outbox.
            self._note(error)
            return self._back_off(self._delay.after(error))

    def _try(self, now: float) -> float | None:
        try:
            delay = self._advance(now)
        except SnowpipeError as error:
            return self._back_off(self._failed(error))
        self.failure = None
        if delay is None:
            self._went_well()
        return delay

    def _back_off(self, delay: float) -> float:
        if delay > 0.0:
            self._resume, self.state = self.state, SenderState.BACKING_OFF
        self.not_before = self._monotonic_s() + delay
        return delay

    def _note(self, failure: AgentError) -> None:
        self.failure = failure
        self._faults.failed(failure, message_id_of(failure), channel=self.channel.name)

    # --- one step ---------------------------------------------------------------------------------

    def _advance(self, now: float) -> float | None:
        """Open if CLOSED, else poll if due, else send, else wait."""
        if self._address != (address := (self.source.channel, self.source.pipe)):
            self._address, self.channel = address, self._open_channel(*address)
            self._start_over()
        if not self.source.needs_channel() and not self._has_uncommitted:
            return None
        pause = self._rate.ready_in(now)
        if self.source.is_switch_due():
            return pause or self._switch(now)
        if self.state is SenderState.CLOSED:
            return pause or self._open(now)
        if self._has_uncommitted and now >= self._poll_timer.due_at:
            return pause or self._poll_status(now)
        if self.state is SenderState.DRAINING and not self._has_uncommitted:
            self._close()
            return 0.0
        if self.state in {SenderState.OPEN, SenderState.AWAITING_COMMIT}:
            self._prepare()
        if self._request is not None:
            size = self._request.append.body.plain_bytes
            return self._rate.ready_in(now, size) or self._send(self._request, now)
        waits = [self._poll_timer.due_at - now] if self._has_uncommitted else []
        if self.source.max_wait_s is not None:
            waits.append(min(self.source.max_wait_s, _CLOCK_WAIT_S))
        return max(0.0, min(waits)) if waits else None

    def _close(self) -> None:
        self.channel.forget()
        self._enter(SenderState.CLOSED)

    def _switch(self, now: float) -> float:
        """Fence the channel used so far and adopt its position, then go to the next one."""
        self._switch_limits.check(self.channel.name, now, self._wall_us())
        self.channel.forget()
        self._start_over()
        self._rate.spend(now)
        try:
            status = self.channel.open()
            position = self._position_of(status.committed_token)
            if position is not None:
                self._note_if_back(status, position)
                self._take_status(status, max(position, self.source.committed), now)
        except SnowpipeError as error:
            if not self._switch_limits.gives_up(error, now):
                raise
            _log.error(
                "channel %s is given up (%s): rows that it had taken and not confirmed may arrive twice",
                self.channel.name,
                error,
                extra=fields(channel=self.channel.name, error=error),
            )
        self.channel.forget()
        self.source.switch(self._wall_us())
        self._switch_limits = SwitchLimits(self.source)
        return 0.0

    def _open(self, now: float) -> float:
        self._rate.spend(now)
        open_at, self._open_at = self._open_at, None
        status = self.channel.open(offset_token=open_at)
        self.source.record_channel(self._wall_us())
        position = self._position_of(status.committed_token)
        if position is None:
            self.channel.forget()
            self.source.request_generation(
                f"the channel {self.channel.name} holds rows that this outbox has no record of: "
                "was it restored from a backup, or the SD card copied?"
            )
            return 0.0
        if self._is_before_ours(position) and open_at is None:
            # Deleted after 30 idle days, or restored to an older position than it confirmed: set ours again.
            self._note_if_back(status, position)
            self._open_at = self.source.committed_token()
            self.channel.forget()
            return 0.0
        self._sent = max(position, self.source.committed)
        self._take_status(status, self._sent, now)
        self._enter(SenderState.OPEN)
        # INFO once per channel: the cause of a reopening is logged where it occurs.
        level = logging.DEBUG if self._announced == self.channel.name else logging.INFO
        self._announced = self.channel.name
        name, token = self.channel.name, status.committed_token
        _log.log(level, "channel %s is open, committed up to %s", name, token, extra=fields(channel=name))
        return 0.0

    def _position_of(self, token: str | None) -> Position | None:
        """The position of a token in our history: the beginning for no token, None for a foreign one."""
        return self.source.position_of(token) if token else (0, 0)

    def _note_if_back(self, status: ChannelStatus, position: Position) -> None:
        """A channel without a token was deleted; one with an earlier token than ours has lost rows."""
        if status.committed_token and self._is_before_ours(position):
            self.source.went_back(position)

    def _is_before_ours(self, position: Position) -> bool:
        return position < self.source.committed and self.source.committed_token() is not None

    def _prepare(self) -> None:
        """Enter SENDING if the source has rows after the last row sent."""
        limit = self._refusals.max_rows or MAX_ROWS
        while batch := self.source.after(self._sent, limit, max_bytes=self._size.plain_bytes):
            body = wire.compress(batch.rows)
            if len(body.data) <= self._size.body_bytes or len(batch.rows) == 1:
                append = Append(body, batch.first_token, batch.last_token)
                self._enter(SenderState.SENDING, _Request(append, batch))
                return
            limit = len(batch.rows) // 2

    def _send(self, request: _Request, now: float) -> float:
        append, last = request.append, request.batch.last
        self._rate.spend(now, append.body.plain_bytes)
        try:
            self.channel.append(append)
        except TransientError:
            append.tries.count += 1
            raise
        is_first = not self._has_uncommitted
        self._sent = last
        self._enter(SenderState.AWAITING_COMMIT)
        self._refusals.accepted(last)
        self._poll_timer.restart()
        if is_first:
            self._advanced_at = now  # the wait for a commit begins here
        if is_first or not self.source.has_after(self._sent):
            self._poll_timer.schedule_first(self._monotonic_s())
        return 0.0

    def _poll_status(self, now: float) -> float:
        self._rate.spend(now)
        status = self.channel.status()
        before = self.source.committed
        position = self._position_of(status.committed_token)
        if position is None:
            raise SnowpipeError(
                f"the channel {self.channel.name} moved to a position that we did not send",
                hint="another agent writes to this channel; it is reopened to read its position",
            )
        if self._is_before_ours(position):
            raise SnowpipeError(f"the channel {self.channel.name} went back to a position before ours")
        self._take_status(status, position, now)
        if self.source.committed > before:
            self._poll_timer.restart()
        elif now - self._advanced_at > _STALLED_S:
            raise SnowpipeError(
                f"nothing sent was committed for {_STALLED_S / 60:.0f} minutes",
                hint="the channel is reopened; check status.snowflake.com",
            )
        if not self._has_uncommitted:
            if self.state is SenderState.AWAITING_COMMIT:
                self._enter(SenderState.OPEN)
            return 0.0
        is_busy = self.source.has_after(self._sent)
        self._poll_timer.schedule_next(self._monotonic_s(), is_busy=is_busy)
        return 0.0

    # --- a channel status -------------------------------------------------------------------------

    def _take_status(self, status: ChannelStatus, position: Position, now: float) -> None:
        """Record the committed position, and the rows that the server counted an error among."""
        before, known = self.source.committed, self.source.error_count()
        errors = known or ErrorCount(0, 0)
        if status.created_on_ms is not None and status.rows_error_count is not None:
            errors = ErrorCount(status.created_on_ms, status.rows_error_count)
        rejected = self._rejected(status, new_errors(known, errors), position)
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
                extra=self._fields(MessageId.ROWS_REJECTED, rejected.last),
            )
        if position > before:
            self.rows_committed += max(0, position[1] - before[1]) if position[0] == before[0] else 0
            self.last_commit_at = self._advanced_at = now
            self._moved_from = before
            self._went_well()

    def _rejected(self, status: ChannelStatus, count: int, position: Position) -> Rejected | None:
        if count == 0:
            return None
        progress = Progress(self._moved_from, self.source.committed, position, self._sent)
        found = error_range(progress, self._position_of(status.last_error_upper_bound))
        if found is None:
            return None
        return Rejected(*found, f"{count} not loaded: {status.last_error_message or 'no reason given'}")

    # --- failures ---------------------------------------------------------------------------------

    def _went_well(self) -> None:
        self._delay.reset()
        self._faults.recovered()

    def _failed(self, error: SnowpipeError) -> float:
        """Enter the state that the failure leaves. Returns the seconds until the next try."""
        if isinstance(error, RowsRefusedError) and self._request is not None:
            request = self._request
            self._enter(SenderState.DRAINING)
            if self._bisected(error, request):
                return 0.0
        if is_position_lost(error):
            self._close()
        self._note(error)
        return self._delay.after(error)

    def _bisected(self, error: RowsRefusedError, request: _Request) -> bool:
        """Apply what `Refusals` decides; False if they have another cause than the rows."""
        batch = request.batch
        match self._refusals.refused(len(batch.rows), batch.last):
            case Split():
                if isinstance(error, TooLargeError):
                    self._size.was_too_large(len(request.append.body.data))
            case SetAside(position, repeated):
                self._set_aside(position, error, is_repeated=repeated)
            case Restore(positions):
                self.source.restore(list(positions))
                return False
        return True

    def _set_aside(self, position: Position, error: RowsRefusedError, *, is_repeated: bool) -> None:
        why = "too large" if isinstance(error, TooLargeError) else "refused"
        self.source.set_aside(position, f"{why}: {error}")
        # An error once, not in every series that ends with all of them restored.
        level = logging.DEBUG if is_repeated else logging.ERROR
        extra = self._fields(MessageId.ROW_SET_ASIDE, position, error)
        _log.log(level, "a row was set aside: %s; see badge-agent outbox list", error, extra=extra)

    def _fields(
        self, event: MessageId, position: Position, error: AgentError | None = None
    ) -> dict[str, object]:
        return fields(event, channel=self.channel.name, seq=self.source.seq(position), error=error)
