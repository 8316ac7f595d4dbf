"""Outbox to Snowflake: live swipes first, then door events, then replays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from agent.clock.offset_model import OffsetSample
from agent.clock.system_clock import Clock
from agent.errors import SnowpipeError
from agent.log.message_ids import MessageId
from agent.outbox import EventRows, Heartbeats, LiveRows, NoHeartbeats, Outbox, ReplayRows
from agent.settings import UploaderSettings
from agent.snowpipe.channel import Channel
from agent.snowpipe.server_clock import ServerTime
from agent.uploader.channel_sender import ChannelSender
from agent.uploader.failures import needs_operator
from agent.uploader.rate_limiter import RateLimiter

# Between two tries to deliver door events while their pipe takes none. After an outage of Snowflake they are
# tried as soon as swipes are accepted.
_EVENTS_PAUSE_S = 900.0

State = Literal["idle", "sending", "waiting", "holding"]  # as `status` shows it


@dataclass(frozen=True, slots=True)
class UploaderStatus:
    """What `status` shows. `last_commit_at` is in seconds of the uploader's monotonic clock."""

    state: State
    reason: str | None
    channel: str
    last_commit_at: float | None
    next_try_seconds: float
    consecutive_failures: int
    rows_committed: int
    events_problem: str | None  # why door events are not delivered


class Uploader:
    """Channel senders for live swipes, door events and replays, that share one rate limit.

    Each step first passes a clock reading to the outbox. Rows whose time is not known are withheld
    until it is, at most `hold_unsynced_s` after the start, or after the oldest pending swipe of this boot, so
    that restarts do not prolong it; then they are sent with an estimate.

    Not thread-safe: one thread steps it. status() and retry_now() may be called from others.
    """

    def __init__(
        self,
        outbox: Outbox,
        open_channel: Callable[[str, str], Channel],
        settings: UploaderSettings,
        *,
        clock: Clock,
        server_time: Callable[[], ServerTime | None],
        hold_unsynced_s: float,
        monotonic_s: Callable[[], float],
        random: Callable[[], float],
        events_pipe: str = "",
        heartbeats: Heartbeats | None = None,
    ) -> None:
        """`events_pipe`: the key of the pipe for door events and `heartbeats`; "" sends none."""
        self._outbox = outbox
        self._monotonic_s = monotonic_s
        self._clock = clock
        self._server_time = server_time
        self._last_server_time: ServerTime | None = None
        self._is_away = False  # Snowflake, since the last failure of a live request
        self._now = clock.now()
        self._live_rows = LiveRows(outbox, self._may_wait_s)
        self._started, self._hold_unsynced_us = self._now, int(hold_unsynced_s * 1e6)
        self._hold_until_us: int | None = None
        self._rate = RateLimiter(
            requests_per_second=settings.max_requests_per_second,
            bytes_per_second=settings.max_bytes_per_second,
        )
        sender = partial(
            ChannelSender,
            open_channel=open_channel,
            rate=self._rate,
            monotonic_s=monotonic_s,
            wall_us=lambda: self._now.wall_us,
            random=random,
        )
        self._live = sender(self._live_rows, settings=settings)
        self._replay = sender(ReplayRows(outbox), settings=settings)
        self._heartbeats = heartbeats or NoHeartbeats()
        self._events: ChannelSender | None = None
        if events_pipe:
            pause_s = max(_EVENTS_PAUSE_S, settings.backoff_max_seconds)
            self._events = sender(
                EventRows(outbox, events_pipe, self._heartbeats, self._may_wait_s),
                settings=replace(settings, backoff_max_seconds=pause_s),
                subject="door events",
                held=(MessageId.DOOR_EVENTS_HELD, MessageId.DOOR_EVENTS_SENT),
            )

    def step(self) -> float | None:
        """Do one bounded thing, with one call to Snowflake at most (client.LONGEST_CALL_S).

        Returns the seconds after which the next step has something to do, None if only a new swipe, door
        event or replay gives it something. Never raises SnowpipeError; OutboxError passes.
        """
        self._observe_clock()
        if self._hold_until_us is None:
            self._hold_until_us = self._hold_unsynced_us + self._oldest_unsent_us()
        requests = self._rate.requests
        live = self._live.step()
        # 0.0: the live sender has more to do immediately. Only while it waits are the others served.
        if live == 0.0 or self._rate.requests != requests:
            return 0.0
        # The others keep the pause of live rows that fail; one of them that fails does not delay live rows.
        if pause := self._live.failing_pause(self._monotonic_s()):
            return pause if live is None else min(live, pause)
        events = self._step_events()
        if events == 0.0 or self._rate.requests != requests:
            return 0.0
        waits = [delay for delay in (live, events, self._replay.step()) if delay is not None]
        return min(waits) if waits else None

    def _step_events(self) -> float | None:
        """As step(), for door events: they wait while Snowflake cannot be reached with swipes."""
        if self._events is None:
            return None
        was_away, failure = self._is_away, self._live.failure
        if failure is not None:
            self._is_away = isinstance(failure, SnowpipeError) and not needs_operator(failure)
        elif self._live.failures == 0:
            self._is_away = False
        if self._is_away:
            return None
        if was_away:
            self._events.retry_now()
        delay, due_in_s = self._events.step(), self._heartbeats.due_in_s()
        if delay is None:
            return due_in_s or None
        return min(delay, due_in_s) if due_in_s else delay

    def _observe_clock(self) -> None:
        """Pass the clock reading on, with the server's time if a new one has arrived."""
        self._now = self._clock.now()
        server_time, sample = self._server_time(), None
        if server_time is not None and server_time is not self._last_server_time:
            sample = OffsetSample(
                int(server_time.boot_s * 1e6), int(server_time.offset_s * 1e6), int(server_time.error_s * 1e6)
            )
            self._last_server_time = server_time
        self._outbox.observe_clock(self._now, sample)

    def _may_wait_s(self) -> float:
        return max(0.0, ((self._hold_until_us or 0) - self._now.boot_us) / 1e6)

    def _oldest_unsent_us(self) -> int:
        """The boot-time clock at the oldest swipe of this boot that waits, else at the start."""
        oldest_us = self._live_rows.oldest_pending_boot_us(self._started.boot_id)
        return self._started.boot_us if oldest_us is None else min(oldest_us, self._started.boot_us)

    @property
    def final_n(self) -> int:
        """Rows up to this one may be purged: no error among them can be counted any more.

        0 while errors may be counted among replayed rows. Raises OutboxError.
        """
        return 0 if self._replay.commits.count_due_at is not None else self._live.commits.final[1]

    def retry_now(self) -> None:
        """End the wait for the next try, because its cause has been changed. From any thread."""
        for sender in (self._live, self._replay, self._events):
            if sender is not None:
                sender.retry_now()

    @property
    def _events_problem(self) -> str | None:
        failure = self._events.failure if self._events is not None else None
        return str(failure) if failure is not None else None

    def status(self) -> UploaderStatus:
        """The live sender's status; the failure of a replay is shown only if live swipes have none."""
        live, replay = self._live, self._replay
        sender = replay if live.failure is None and replay.failure is not None else live
        failure = sender.failure
        reason = str(failure) if failure is not None else None
        waits_s = live.source.max_wait_s
        state: State = "idle"
        recovery = next((one for one in self._outbox.state.recoveries if one.withholds), None)
        if recovery is not None:
            state = "waiting"
            reason = (
                f"the rows of {recovery.name} are recovered first: {recovery.done:,} of {recovery.total:,}"
            )
        elif failure is not None:
            state = "holding" if needs_operator(failure) else "waiting"
        elif waits_s is not None:
            state, reason = "waiting", "swipes wait for the clock to be synchronised"
        elif self._outbox.pending:
            state = "sending"
        return UploaderStatus(
            state=state,
            reason=reason,
            channel=live.channel.name,
            last_commit_at=live.commits.last_commit_at,
            next_try_seconds=max(0.0, sender.not_before - self._monotonic_s()) if failure else waits_s or 0.0,
            consecutive_failures=sender.failures,
            rows_committed=live.commits.rows_committed,
            events_problem=self._events_problem,
        )
