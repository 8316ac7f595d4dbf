"""Outbox to Snowflake: live swipes first, replays when there is nothing else to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.errors import AuthError, RowsRefusedError
from agent.lane import Lane, Limits, State
from agent.outbox import LiveRows, Outbox, ReplayRows
from agent.snowpipe.channel import Channel
from agent.snowpipe.pace import Pace


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

    Not thread-safe: one thread steps it. status() may be read from another.
    """

    def __init__(
        self,
        outbox: Outbox,
        open_channel: Callable[[str], Channel],
        limits: Limits,
        *,
        monotonic_s: Callable[[], float],
        random: Callable[[], float],
    ) -> None:
        self._outbox = outbox
        self._monotonic_s = monotonic_s
        pace = Pace(
            requests_per_second=limits.max_requests_per_second,
            bytes_per_second=limits.max_bytes_per_second,
        )
        self._live, self._replay = (
            Lane(source, open_channel, limits, pace, monotonic_s=monotonic_s, random=random)
            for source in (LiveRows(outbox), ReplayRows(outbox))
        )

    def step(self) -> float | None:
        """Do one bounded thing.

        Returns the seconds after which the next step has something to do, None if only a new swipe
        or a new replay gives it something. Never raises SnowpipeError; OutboxError passes.
        """
        live = self._live.step()
        # 0.0: more at once. Otherwise the live lane waits, and the time may serve a replay.
        if live == 0.0:
            return live
        replay = self._replay.step()
        waits = [delay for delay in (live, replay) if delay is not None]
        return min(waits) if waits else None

    def status(self) -> UploaderStatus:
        """Where the uploader stands; a failing replay shows while the live lane is well."""
        lane = self._replay if self._live.failure is None and self._replay.failure is not None else self._live
        failure = lane.failure
        state: State = "idle"
        if failure is not None:
            state = "holding" if isinstance(failure, AuthError | RowsRefusedError) else "waiting"
        elif self._outbox.pending:
            state = "sending"
        return UploaderStatus(
            state=state,
            reason=str(failure) if failure is not None else None,
            channel=self._live.channel.name,
            last_commit_at=self._live.last_commit_at,
            next_try_seconds=max(0.0, lane.not_before - self._monotonic_s()) if failure else 0.0,
            consecutive_failures=lane.failures,
            rows_committed=self._live.rows_committed,
        )
