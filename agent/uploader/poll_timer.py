"""When to ask for the committed position: soon after an append, then in growing pauses."""

from __future__ import annotations

# The first poll after an append, and the longest pause between two polls.
_FIRST_S = 0.25
_LAST_S = 5.0
# The longest pause while commits are overdue: the server is slow, and polls do not make it faster.
_OVERDUE_S = 300.0
# While more rows wait to be sent, polling more often than this only slows the sending.
_BUSY_S = 1.0


class PollTimer:
    """The time of the next poll, in seconds of the caller's monotonic clock."""

    def __init__(self) -> None:
        self.due_at = 0.0
        self._pause_s = _FIRST_S

    def restart(self) -> None:
        """Something was sent or committed: the next pause is a short one again."""
        self._pause_s = _FIRST_S

    def schedule_first(self, now: float) -> None:
        """Poll for what was sent at `now`."""
        self.due_at = now + _FIRST_S

    def schedule_next(self, now: float, *, is_busy: bool, is_overdue: bool = False) -> None:
        """Poll again, later each time; `is_busy` means that more rows wait to be sent."""
        self.due_at = now + max(self._pause_s, _BUSY_S if is_busy else 0.0)
        self._pause_s = min(self._pause_s * 2, _OVERDUE_S if is_overdue else _LAST_S)
