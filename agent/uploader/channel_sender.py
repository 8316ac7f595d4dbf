"""Delivers one row source through one channel: open, append, poll for commit, resume.

Theory of operation
-------------------
States (`SenderState`), and what one step does in each:

    CLOSED           the channel's position is unknown        open it, read the committed token
    OPEN             every row sent is committed              prepare an append, or wait for rows
    SENDING          one append is prepared                   send it (the same bytes on every retry)
    AWAITING_COMMIT  rows are sent and not committed          prepare the next append, or poll
    BACKING_OFF      a request or the outbox failed           wait, then resume the state before

Transitions:
    CLOSED           -> OPEN             the committed token is ours and recorded
    CLOSED           -> CLOSED           reopen at our own position; a switch to another channel
    OPEN, AWAITING   -> SENDING          the source has rows after the last row sent
    SENDING          -> AWAITING_COMMIT  accepted
    SENDING          -> OPEN, AWAITING   not processed and too large for the way: prepared again, smaller
    SENDING          -> CLOSED           refused: smaller, or the same row later (append_request.py)
    AWAITING_COMMIT  -> OPEN             the last row sent is committed, or the server has lost what was sent
    any              -> CLOSED           unknown outcome, lost channel, foreign position, failed polls
    any              -> BACKING_OFF -> the state above, once the delay has passed

While rows are uncommitted, polls are due on a timer in every state; a due poll precedes the next append. One
more poll is due some minutes after the last commit, because errors may be counted late.

What follows from an answer:

    lost channel, unknown outcome   reopen, for two minutes without discarding (channel_opening.py)
    refused, or too large           halve the request, down to one row; after an hour a row is a suspect,
                                    and the rows after it are tried (refused_rows.py)
    broke on the way, timed out     halve the request (request_size.py)
    any other, credentials          the same request after a delay; no row is the cause
    no commit for ten minutes       report it, poll less often; then open if nothing is uncommitted
    polls fail                      reopen: the answer has the committed token, too

Invariants:
 1. Sent is not committed. `_sent` is an assumption; only `source.commit()` moves `source.committed`, and
    only for what Snowflake has confirmed.
 2. One request is in flight, in source order without gaps; its continuation token is the last answer's.
 3. A retry of the same bytes has the same request id, and the next retry count.
 4. After an unknown outcome nothing is assumed: forget the position, reopen, read the committed token,
    resume after it. Opening discards what the server had buffered, so nothing is stored twice.
 5. A token of another history is never adopted: the source starts a new generation with a new channel.
    Before any change of channel the old one is opened, which fences it, and its position is committed
    (agent.outbox.channel_use). It is given up after some time if only it cannot be opened.
 6. The committed position is recorded before the state changes; if it cannot be, both stay and polls go on.
 7. Only a commit, or an empty source, ends a series of failures: a 200 does not. In a series of the live
    sender both together send at most one request a second; in one of the replays they alone do.
 8. A suspect is on disk before a row after it is sent, and those are sent one at a time. The first one
    that is accepted is committed before the next is sent: its commit sets aside the rows passed over.

Ownership: the thread that calls step() changes everything here. Other threads may read `state`,
`failure` and the counters, and may set `not_before` (retry_now) to end a wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.errors import (
    AgentError,
    OutboxReplacedError,
    OutboxUnavailableError,
    RowsRefusedError,
    SnowpipeError,
    TransientError,
)
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.outbox import RowSource
from agent.settings import UploaderSettings
from agent.snowpipe.channel import Channel
from agent.snowpipe.wire import ChannelStatus
from agent.uploader import append_request
from agent.uploader.append_request import AppendRequest
from agent.uploader.channel_opening import RETRY_S, ChannelOpening, has_uncommitted
from agent.uploader.channel_switch import ChannelSwitch
from agent.uploader.commit_recorder import CommitRecorder
from agent.uploader.failures import RetryDelay, is_position_lost, message_id_of
from agent.uploader.poll_timer import PollTimer
from agent.uploader.rate_limiter import RateLimiter
from agent.uploader.refused_rows import RefusedRows
from agent.uploader.request_size import RequestSize
from agent.uploader.sender_state import SenderState
from agent.uploader.slow_commits import SlowCommits

_log = logging.getLogger(__name__)

# After so many failed polls in a row the position is read by opening the channel.
_FAILED_POLLS = 3
_FAILING_PAUSE_S = 1.0  # while requests fail, at most one leaves in this time, or in a shorter back-off
# How often to ask again for rows that wait for the clock: it may be set at any moment.
_CLOCK_WAIT_S = 1.0


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
        subject: str = "uploader",
        held: tuple[MessageId | None, MessageId] = (None, MessageId.SNOWFLAKE_RECOVERED),
    ) -> None:
        """`open_channel` takes a name and the key of a pipe.

        `rate` is shared by all senders: whether Snowflake counts channels together is not documented.
        `subject` begins each line. `held`: MESSAGE_IDs of a failure (None: by its cause) and its end.
        """
        self.source = source
        self._address = source.channel, source.pipe
        self.channel = open_channel(*self._address)
        self.failure: AgentError | None = None
        self.not_before = 0.0
        self._open_channel = open_channel
        self.commits = CommitRecorder(source)
        self._announced = ""  # the channel whose opening was logged
        self._size = RequestSize(settings)
        self._refused = RefusedRows()
        self._rate = rate
        self._monotonic_s = monotonic_s
        self._wall_us = wall_us
        self._switching = ChannelSwitch(source, monotonic_s)
        self._failing_pause_s = min(_FAILING_PAUSE_S, settings.backoff_max_seconds)
        self._delay = RetryDelay(max_s=settings.backoff_max_seconds, random=random)
        self._failed_id, recovery = held
        self._faults = FailureLog(_log, subject, monotonic_s, recovery=recovery)
        self._start_over()

    def _start_over(self) -> None:
        """Forget everything about the channel."""
        self.channel.forget()
        self._enter(SenderState.CLOSED)
        self._sent = self.source.committed
        self._open_at: str | None = None  # the offset token to set at the next open
        self._opening = ChannelOpening()
        self._refused.end_trial()
        self._poll_timer = PollTimer()  # while rows are uncommitted
        self._failed_polls = 0
        self._slow_commits = SlowCommits()
        self.commits.start_over()

    def _enter(self, state: SenderState, request: AppendRequest | None = None) -> None:
        """`request` is what is to be sent in SENDING."""
        self.state = self._resume = state
        self._request = request

    @property
    def failures(self) -> int:
        """Failed tries since the last commit or idle moment; overdue commits count as one."""
        return self._delay.failures + (self._slow_commits.failure is not None)

    def retry_now(self) -> None:
        """End the wait for the next try. From any thread."""
        self.not_before = 0.0

    @property
    def _has_uncommitted(self) -> bool:
        return self._sent > self.source.committed

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
        self.failure = self._slow_commits.failure
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
        self._faults.failed(failure, self._failed_id or message_id_of(failure), channel=self.channel.name)

    # --- one step ---------------------------------------------------------------------------------

    def _advance(self, now: float) -> float | None:
        """Open if CLOSED, else poll if due, else send, else wait."""
        if self._address != (address := (self.source.channel, self.source.pipe)):
            self._address, self.channel = address, self._open_channel(*address)
            self._start_over()
        is_count_due = self.commits.count_due_at is not None
        if not self.source.needs_channel() and not self._has_uncommitted and not is_count_due:
            return None
        pause = self._pause(now)
        if self.source.is_switch_due():
            return pause or self._switch(now)
        if self.state is SenderState.CLOSED:
            return pause or self._open(now)
        if (poll_at := self._poll_at()) is not None and now >= poll_at:
            is_probe_due = self._has_uncommitted and self._slow_commits.is_probe_due(now)
            return pause or (self._probe(now) if is_probe_due else self._poll_status(now))
        if self.state in {SenderState.OPEN, SenderState.AWAITING_COMMIT}:
            self._prepare()
        if self._request is not None:
            return self._pause(now, self._request.plain_bytes) or self._send(self._request, now)
        waits = [] if poll_at is None else [poll_at - now]
        if self.source.max_wait_s is not None:
            waits.append(min(self.source.max_wait_s, _CLOCK_WAIT_S))
        elif not self._has_uncommitted:
            self._went_well()
        return max(0.0, min(waits)) if waits else None

    def _pause(self, now: float, size: int = 0) -> float:
        """Seconds until a request may leave."""
        return max(self._rate.ready_in(now, size), self.failing_pause(now))

    def failing_pause(self, now: float) -> float:
        """Seconds until another request may leave because those of this sender fail; 0.0 if they do not."""
        return self._rate.after_last(self._failing_pause_s if self._delay.failures else 0.0, now)

    def _poll_at(self) -> float | None:
        """When a poll is due; None for never."""
        return self._poll_timer.due_at if self._has_uncommitted else self.commits.count_due_at

    def _switch(self, now: float) -> float:
        """Fence the channel used so far and adopt its position, then go to the next one."""
        self._switching.check(self.channel.name, now, self._wall_us())
        if self.state is not SenderState.CLOSED:
            self._start_over()
        self._rate.spend(now)
        if self._switching.adopt(self.channel, self._opening, self.commits, now):
            self._advanced(now)
        self._start_over()
        self.source.switch(self._wall_us())
        self._switching = ChannelSwitch(self.source, self._monotonic_s)
        return 0.0

    def _open(self, now: float) -> float:
        self._rate.spend(now)
        return self._opened(self._opening.open(self.channel, now, self._open_at), now)

    def _probe(self, now: float) -> float:
        """Open if nothing is uncommitted: the rows that are waited for are no longer there then."""
        self._rate.spend(now)
        self._slow_commits.probed()
        try:
            status = self.channel.open(fail_on_uncommitted_rows=True)
        except SnowpipeError as error:
            if has_uncommitted(error):  # they are waited for, after a pause as after any refusal
                self._poll_timer.schedule_next(self._monotonic_s(), is_busy=False, is_overdue=True)
            raise
        return self._opened(status, now)

    def _opened(self, status: ChannelStatus, now: float) -> float:
        """Continue after the position of the open channel."""
        open_at, self._open_at = self._open_at, None
        self.source.record_channel(self._wall_us())
        position = self.commits.position_of(status.committed_token)
        if position is None:
            self.channel.forget()
            self.source.request_generation(
                f"the channel {self.channel.name} holds rows that this outbox has no record of: "
                "was it restored from a backup, or the SD card copied?"
            )
            return 0.0
        if self.commits.is_before_ours(position) and open_at is None:
            # Deleted after 30 idle days, or restored to an older position than it confirmed: set ours again.
            self.commits.report_if_back(status, position)
            self._open_at = self.source.committed_token()
            self.channel.forget()
            return 0.0
        self._sent = max(position, self.source.committed)
        if self.commits.reopened(self.channel.name, status, self._sent, now):
            self._advanced(now)
        self._failed_polls = 0
        self._enter(SenderState.OPEN)
        # INFO once per channel: the cause of a reopening is logged where it occurs.
        name, token = self.channel.name, status.committed_token
        level = logging.DEBUG if self._announced == name else logging.INFO
        self._announced = name
        _log.log(level, "channel %s is open, committed up to %s", name, token, extra=fields(channel=name))
        return 0.0

    def _advanced(self, now: float) -> None:
        self._slow_commits.waits_from(now)
        if self.source.suspect is None:
            self._refused.committed(now)
        self._went_well()

    def _prepare(self) -> None:
        """Enter SENDING if the source has rows after the last row sent."""
        if self.source.suspect is not None and self._has_uncommitted:
            return
        # Without a suspect no row is passed over: its withdrawal may have failed, and be stored after all.
        passed = self._refused.passed if self.source.suspect is not None else None
        after = max(self._sent, passed or self._sent)
        request = append_request.prepare(self.source, self.channel, after, self._size)
        if request is not None:
            self._enter(SenderState.SENDING, request)

    def _send(self, request: AppendRequest, now: float) -> float:
        last = request.batch.last
        self._rate.spend(now, request.plain_bytes)
        try:
            self.channel.append(request.append)
        except SnowpipeError as error:
            is_unprocessed, elapsed_s = isinstance(error, TransientError), self._monotonic_s() - now
            request.append.tries.count += is_unprocessed
            is_too_large = append_request.is_too_large_for_the_way(error, request, self._size, elapsed_s)
            if is_too_large and is_unprocessed:
                self._enter(SenderState.AWAITING_COMMIT if self._has_uncommitted else SenderState.OPEN)
            raise
        is_first = not self._has_uncommitted
        self._sent = last
        self._enter(SenderState.AWAITING_COMMIT)
        self._size.accepted(request.plain_bytes)
        self._refused.accepted()
        if request.batch.is_stored:
            self.commits.sent(last)
        self._poll_timer.restart()
        if is_first:
            self._slow_commits.waits_from(now)
        if is_first or not self.source.has_after(self._sent):
            self._poll_timer.schedule_first(self._monotonic_s())
        return 0.0

    def _poll_status(self, now: float) -> float:
        self._rate.spend(now)
        try:
            status = self.channel.status()
        except SnowpipeError:
            self._failed_polls += 1
            if self._failed_polls >= _FAILED_POLLS:
                self._close()  # an open answers the position, too
            raise
        self._failed_polls = 0
        position = self.commits.polled(self.channel.name, status)
        if self.commits.record(self.channel.name, status, position, now):
            self._advanced(now)
            self._poll_timer.restart()
        if not self._has_uncommitted:
            if self.state is SenderState.AWAITING_COMMIT:
                self._enter(SenderState.OPEN)
            return 0.0
        overdue = self._slow_commits.check(now)
        if overdue is not None:
            self._note(overdue)
        self._poll_timer.schedule_next(
            self._monotonic_s(), is_busy=self.source.has_after(self._sent), is_overdue=overdue is not None
        )
        return 0.0

    # --- failures ---------------------------------------------------------------------------------

    def _close(self) -> None:
        self.channel.forget()
        self._enter(SenderState.CLOSED)

    def _went_well(self) -> None:
        self._slow_commits.ended()
        self._delay.reset()
        self._faults.recovered()

    def _failed(self, error: SnowpipeError) -> float:
        """Enter the state that the failure leaves. Returns the seconds until the next try."""
        if has_uncommitted(error):
            _log.debug("channel %s: waiting for rows that are not committed yet", self.channel.name)
            return RETRY_S
        delay = self._delay.after(error)
        if isinstance(error, RowsRefusedError) and self._request is not None:
            request, now = self._request, self._monotonic_s()
            self._close()  # the refusal may have used up the continuation token
            if append_request.has_rows_to_try(error, request, self.source, self._size, self._refused, now):
                return 0.0
        elif is_position_lost(error):
            self._close()
        self._note(error)
        return delay
