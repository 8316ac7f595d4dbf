"""Outbox to Snowflake: live swipes first, replays when there is nothing else to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.clock.offset_model import OffsetSample
from agent.clock.system_clock import Clock
from agent.errors import AuthError, RowsRefusedError
from agent.outbox import LiveRows, Outbox, ReplayRows
from agent.snowpipe.channel import Channel
from agent.snowpipe.server_clock import ServerTime
from agent.uploader.channel_sender import ChannelSender, Limits, State
from agent.uploader.rate_limiter import RateLimiter


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
    """Two lanes over one connection, one request in flight.

    Each step looks at the clock first. Rows whose time is not known wait for it, at most
    `hold_unsynced_s` after the start; then they go with what is known.

    Not thread-safe: one thread steps it. status() may be read from another.
    """

    def __init__(
        self,
        outbox: Outbox,
        open_channel: Callable[[str], Channel],
        limits: Limits,
        *,
        clock: Clock,
        server_time: Callable[[], ServerTime | None],
        hold_unsynced_s: float,
        monotonic_s: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._monotonic_s = monotonic_s
        self._clock = clock
        self._server_time = server_time
        self._heard: ServerTime | None = None
        self._now = clock.now()
        self._hold_until_us = self._now.boot_us + int(hold_unsynced_s * 1e6)
        pace = RateLimiter(
            requests_per_second=limits.max_requests_per_second,
            bytes_per_second=limits.max_bytes_per_second,
        )
        self._live, self._replay = (
            ChannelSender(source, open_channel, limits, pace, monotonic_s=monotonic_s, random=random)
            for source in (LiveRows(outbox, self._may_wait_s), ReplayRows(outbox))
        )

    def step(self) -> float | None:
        """Do one bounded thing.

        Returns the seconds after which the next step has something to do, None if only a new swipe
        or a new replay gives it something. Never raises SnowpipeError; OutboxError passes.
        """
        self._look()
        live = self._live.step()
        # 0.0: more at once. Otherwise the live lane waits, and the time may serve a replay.
        if live == 0.0:
            return live
        replay = self._replay.step()
        waits = [delay for delay in (live, replay) if delay is not None]
        return min(waits) if waits else None

    def _look(self) -> None:
        """A synchronised clock is believed; the server's tells at least something where there is none."""
        self._now = self._clock.now()
        heard, server = self._server_time(), None
        if heard is not None and heard is not self._heard:
            server = OffsetSample(
                int(heard.boot_s * 1e6), int(heard.offset_s * 1e6), int(heard.error_s * 1e6)
            )
            self._heard = heard
        self._outbox.observe_clock(self._now, server)

    def _may_wait_s(self) -> float:
        return max(0.0, (self._hold_until_us - self._now.boot_us) / 1e6)

    def try_now(self) -> None:
        """End the wait for the next try: what was wrong has been changed. From any thread."""
        for lane in (self._live, self._replay):
            lane.not_before = 0.0

    def status(self) -> UploaderStatus:
        """Where the uploader stands; a failing replay shows while the live lane is well."""
        lane = self._replay if self._live.failure is None and self._replay.failure is not None else self._live
        failure = lane.failure
        reason = str(failure) if failure is not None else None
        waits_s = self._live.source.max_wait_s
        state: State = "idle"
        if failure is not None:
            state = "holding" if isinstance(failure, AuthError | RowsRefusedError) else "waiting"
        elif waits_s is not None:
            state, reason = "waiting", "swipes wait for the clock to be synchronised"
        elif self._outbox.pending:
            state = "sending"
        return UploaderStatus(
            state=state,
            reason=reason,
            channel=self._live.channel.name,
            last_commit_at=self._live.last_commit_at,
            next_try_seconds=max(0.0, lane.not_before - self._monotonic_s()) if failure else waits_s or 0.0,
            consecutive_failures=lane.failures,
            rows_committed=self._live.rows_committed,
        )
