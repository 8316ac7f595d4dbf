"""How long nothing sent was committed: when to report it, and when to ask whether it is still there; pure."""

from __future__ import annotations

from agent.errors import TransientError

# Slow commits are not lost commits: after this time they are reported, and waited for.
_OVERDUE_S = 600.0
# Rows that the server has lost, as after another writer opened the channel, are committed never. An open that
# is refused while rows are uncommitted finds out, first after this time, then after twice as long each time:
# where the server ignores the condition and discards the rows, a slow commit still gets its time.
_PROBE_S = 1_200.0


class SlowCommits:
    """The wait for a commit. `now` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._since = 0.0
        self._probe_after_s = _PROBE_S
        self.failure: TransientError | None = None  # what to report; None while commits advance in time

    def waits_from(self, now: float) -> None:
        """A commit advanced, or the first rows were sent after everything was committed."""
        self._since = now

    def check(self, now: float) -> TransientError | None:
        """The report, if nothing was committed for too long."""
        waited_s = now - self._since
        if waited_s > _OVERDUE_S:
            self.failure = TransientError(
                f"nothing sent was committed for {waited_s / 60:.0f} minutes",
                hint="the channel is healthy, so the rows are waited for; check status.snowflake.com",
            )
        return self.failure

    def is_probe_due(self, now: float) -> bool:
        """Whether to ask if the server still has the rows that were sent."""
        return now - self._since > self._probe_after_s

    def probed(self) -> None:
        """The server was asked."""
        self._probe_after_s *= 2

    def ended(self) -> None:
        """Commits advance again, or there is nothing to wait for."""
        self.failure = None
        self._probe_after_s = _PROBE_S
