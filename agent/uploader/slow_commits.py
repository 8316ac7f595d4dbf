"""How long nothing sent was committed, and the report of it; pure."""

from __future__ import annotations

from agent.errors import TransientError

# Slow commits are not lost commits: after this time they are reported, and waited for.
_OVERDUE_S = 600.0


class SlowCommits:
    """The wait for a commit. `now` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._since = 0.0
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

    def ended(self) -> None:
        """Commits advance again, or there is nothing to wait for."""
        self.failure = None
