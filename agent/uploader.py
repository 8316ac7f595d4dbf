"""Outbox to channel: one bounded step() at a time, without sleep or thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agent.backoff import Backoff
from agent.errors import AuthError, RetryError, SnowpipeError
from agent.faultlog import FaultLog
from agent.outbox import Batch, Outbox
from agent.snowpipe import wire
from agent.snowpipe.channel import Append, Channel
from agent.snowpipe.pace import Pace
from agent.snowpipe.wire import ChannelStatus

_log = logging.getLogger(__name__)

# The first look after an append, and the longest pause between two looks for its commitment.
_FIRST_POLL_S = 0.25
_LAST_POLL_S = 5.0
# While more rows wait to be sent, looking more often than this only slows the sending.
_BUSY_POLL_S = 1.0
# A commit that does not advance for so long is doubt: reopen and ask again.
_STALLED_S = 600.0
_FIRST_DELAY_S = 1.0
# Several requests fit into a second's worth of bytes, so that the byte rate can be used in full.
_BATCHES_PER_SECOND = 6
_BATCH_ROWS = 20_000

State = Literal["idle", "sending", "waiting", "holding"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What Snowflake lets one channel do; see the configuration's [uploader]."""

    max_request_bytes: int
    max_requests_per_second: int
    max_bytes_per_second: int
    backoff_max_seconds: float


@dataclass(frozen=True, slots=True)
class UploaderStatus:
    """What `status` shows. Times are of the monotonic clock that the uploader was given."""

    state: State
    reason: str | None
    channel: str
    last_commit_at: float | None
    next_try_seconds: float
    consecutive_failures: int
    rows_committed: int


class Uploader:
    """Sends the outbox's rows in order, one request in flight, until each is committed.

    Not thread-safe: one thread steps it. status() may be read from another.
    """

    def __init__(
        self,
        outbox: Outbox,
        open_channel: Callable[[str], Channel],
        limits: Limits,
        *,
        agent_id: str,
        monotonic_s: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._limits = limits
        self._monotonic_s = monotonic_s
        self._random = random
        self._channel = open_channel(f"{agent_id}-{outbox.outbox_id}")
        self._pace = Pace(
            requests_per_second=limits.max_requests_per_second,
            bytes_per_second=limits.max_bytes_per_second,
        )
        self._backoff = Backoff(first=_FIRST_DELAY_S, cap=limits.backoff_max_seconds, random=random)
        self._faults = FaultLog(_log, "uploader", monotonic_s)
        self._batch_bytes = limits.max_bytes_per_second // _BATCHES_PER_SECOND
        self._sent_seq = 0
        self._reset_to: str | None = None
        self._append: tuple[Append, Batch] | None = None
        self._poll_at: float | None = None
        self._poll_delay = _FIRST_POLL_S
        self._advanced_at = 0.0
        self._not_before = 0.0
        self._failure: SnowpipeError | None = None
        self._rows_committed = 0
        self._last_commit_at: float | None = None

    def step(self) -> float | None:
        """Do one bounded thing.

        Returns the seconds after which the next step has something to do, None if only a new
        swipe gives it something. Never raises SnowpipeError; OutboxError passes.
        """
        now = self._monotonic_s()
        if now < self._not_before:
            return self._not_before - now
        try:
            delay = self._advance(now)
        except SnowpipeError as error:
            delay = self._failed(error)
            self._not_before = self._monotonic_s() + delay
            return delay
        self._not_before = 0.0
        self._failure = None
        if delay is None:
            self._recovered()
        return delay

    def status(self) -> UploaderStatus:
        """Where the uploader stands."""
        failure = self._failure
        state: State = "idle"
        if failure is not None:
            state = "holding" if isinstance(failure, AuthError) else "waiting"
        elif self._outbox.last_seq > self._outbox.committed_seq:
            state = "sending"
        return UploaderStatus(
            state=state,
            reason=str(failure) if failure is not None else None,
            channel=self._channel.name,
            last_commit_at=self._last_commit_at,
            next_try_seconds=max(0.0, self._not_before - self._monotonic_s()) if failure else 0.0,
            consecutive_failures=self._backoff.failures,
            rows_committed=self._rows_committed,
        )

    # --- one step -----------------------------------------------------------------------------

    def _advance(self, now: float) -> float | None:
        """Open if we must, else look for commitment if it is time, else send, else wait."""
        pause = self._pace.ready_in(now)
        if not self._channel.is_open:
            return pause or self._open(now)
        uncommitted = self._sent_seq > self._outbox.committed_seq
        if uncommitted and self._poll_at is not None and now >= self._poll_at:
            return pause or self._poll(now)
        if self._append is None:
            self._append = self._next_append()
        if self._append is not None:
            return self._pace.ready_in(now, self._append[0].body.plain_bytes) or self._send(now)
        return max(0.0, self._poll_at - now) if uncommitted and self._poll_at is not None else None

    def _open(self, now: float) -> float:
        self._pace.spend(now)
        self._append = None
        reset_to, self._reset_to = self._reset_to, None
        committed = self._resume_from(self._channel.open(offset_token=reset_to).committed_token)
        if committed is None and reset_to is None:
            # Deleted after 30 idle days, or behind what it once confirmed: set our position again.
            self._reset_to = self._outbox.committed_token()
            self._channel.forget()
            return 0.0
        self._sent_seq = self._outbox.committed_seq if committed is None else committed
        self._commit_up_to(self._sent_seq, now)
        self._poll_at = None
        level = logging.DEBUG if self._backoff.failures else logging.INFO
        _log.log(level, "channel %s is open, committed up to seq %d", self._channel.name, self._sent_seq)
        return 0.0

    def _resume_from(self, remote_token: str | None) -> int | None:
        """The seq to resume after, or None if the server knows less than it once confirmed."""
        if remote_token is None:
            return None if self._outbox.committed_seq else 0
        seq = self._outbox.explain(remote_token)
        if seq is None:
            self._channel.forget()
            raise SnowpipeError(
                f"the channel {self._channel.name} stands at a position that this outbox has no row for",
                hint="was the outbox restored from a backup? nothing is sent, so that nothing is swallowed",
            )
        return seq if seq >= self._outbox.committed_seq else None

    def _next_append(self) -> tuple[Append, Batch] | None:
        limit = _BATCH_ROWS
        while batch := self._outbox.after(self._sent_seq, limit, max_bytes=self._batch_bytes):
            body = wire.compress(batch.rows)
            if len(body.data) <= self._limits.max_request_bytes or len(batch.rows) == 1:
                return Append(body, batch.first_token, batch.last_token), batch
            limit = len(batch.rows) // 2
        return None

    def _send(self, now: float) -> float:
        assert self._append is not None  # noqa: S101 - for the type checker: _advance() just looked
        append, batch = self._append
        self._pace.spend(now, append.body.plain_bytes)
        self._channel.append(append)
        self._append = None
        if self._sent_seq == self._outbox.committed_seq:
            self._advanced_at = now  # nothing was uncommitted: the wait for a commit begins here
        self._sent_seq = batch.last_seq
        self._poll_delay = _FIRST_POLL_S
        if self._poll_at is None or self._outbox.last_seq == self._sent_seq:
            self._poll_at = self._monotonic_s() + _FIRST_POLL_S
        return 0.0

    def _poll(self, now: float) -> float:
        self._pace.spend(now)
        status = self._channel.status()
        before = self._outbox.committed_seq
        self._commit_up_to(self._confirmed(status), now)
        if self._outbox.committed_seq > before:
            self._poll_delay = _FIRST_POLL_S
        elif now - self._advanced_at > _STALLED_S:
            self._channel.forget()
            raise RetryError(
                f"nothing sent was committed for {_STALLED_S / 60:.0f} minutes; the channel is opened again",
                hint="Snowflake may be ill: status.snowflake.com",
            )
        if self._outbox.committed_seq >= self._sent_seq:
            self._poll_at = None
            return 0.0
        busy = self._outbox.last_seq > self._sent_seq
        self._poll_at = self._monotonic_s() + max(self._poll_delay, _BUSY_POLL_S if busy else 0.0)
        self._poll_delay = min(self._poll_delay * 2, _LAST_POLL_S)
        return 0.0

    def _confirmed(self, status: ChannelStatus) -> int:
        """The seq the status confirms; a token from elsewhere is doubt."""
        if status.committed_token is None:
            return 0
        seq = self._outbox.explain(status.committed_token)
        if seq is None or seq > self._sent_seq:
            self._channel.forget()
            raise SnowpipeError(
                f"the channel {self._channel.name} moved to a position that we did not send",
                hint="another agent writes to this channel: was the SD card copied?",
            )
        return seq

    def _commit_up_to(self, seq: int, now: float) -> None:
        news = seq - self._outbox.committed_seq
        if news > 0:
            self._outbox.mark_committed(seq)
            self._rows_committed += news
            self._last_commit_at = self._advanced_at = now
            self._recovered()

    def _recovered(self) -> None:
        """Only a commit, or nothing left to do, ends a row of failures: a 200 alone proves too little."""
        self._backoff.reset()
        self._faults.recovered()

    # --- failures -----------------------------------------------------------------------------

    def _failed(self, error: SnowpipeError) -> float:
        """Decide what the failure leaves us with. Returns the seconds until the next try."""
        in_doubt = not isinstance(error, RetryError | AuthError)
        first = self._backoff.failures == 0
        if self._append is not None:
            if isinstance(error, RetryError):
                self._append[0].tries.count += 1
            if in_doubt:
                self._append = None
        if in_doubt:
            self._channel.forget()
        self._failure = error
        self._faults.failed(error)
        delay = self._backoff.next()
        if isinstance(error, AuthError):
            # The slow pace: half the cap at least, for ever; a person has to change something.
            return self._limits.backoff_max_seconds * (1.0 - self._random() / 2)
        if isinstance(error, RetryError) and error.retry_after is not None:
            return error.retry_after
        # A first doubt is answered at once: the channel is opened again and tells where it stands.
        return 0.0 if in_doubt and first else delay
