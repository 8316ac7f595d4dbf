"""Which rows are refused for their own sake: learned from outcomes; pure.

Snowflake skips and counts rows that do not load, and documents no answer for a bad one: a refusal is no
evidence against a row. A row that is refused on its own is retried slowly. Only after `_FIRST_TRIAL_S` is
it a suspect, and a trial begins: the rows after it are sent one at a time, until one is accepted or enough
were refused. Accepted: once that row is committed, the suspect and every row between them, each refused in
this trial, are set aside. Refused: the suspicion is withdrawn, and the next trial begins after twice the
time, with four times as many rows. So bad rows next to each other are found, and a pipe that refuses
everything costs few requests and sets nothing aside.
"""

from __future__ import annotations

from agent.outbox import Position

_FIRST_TRIAL_S = 3_600.0
_LONGEST_S = 86_400.0
# How many rows a trial sends. More refused rows in a row than the last number are the pipe's fault.
_FIRST_ROWS, _MOST_ROWS = 4, 1_024


class RefusedRows:
    """The rows of one source that are refused on their own. `now` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._row: Position | None = None  # refused on its own, retried since
        self._since = 0.0
        self._trial_after_s = _FIRST_TRIAL_S
        self._most_rows = _FIRST_ROWS
        self.end_trial()

    def end_trial(self) -> None:
        """No row is passed over, or the source is another one."""
        self.passed: Position | None = None  # the last row that was refused in the present trial
        self._tried = 0

    def accepted(self) -> None:
        """An append was accepted."""
        self._row = None

    def refused(self, row: Position, now: float) -> bool:
        """A row was refused on its own. True if this lasted for long enough to make it a suspect."""
        if self._row != row:
            self._row, self._since = row, now
        return now - self._since >= self._trial_after_s

    def refused_in_trial(self, row: Position) -> bool:
        """A row after the suspect was refused on its own. True if the trial continues with the next one."""
        self.passed = row
        self._tried += 1
        return self._tried < self._most_rows

    def withdrawn(self, suspect: Position, now: float) -> None:
        """No row of the trial was accepted: the cause is not the rows."""
        self.end_trial()
        self._row, self._since = suspect, now
        self._trial_after_s = min(self._trial_after_s * 2, _LONGEST_S)
        self._most_rows = min(self._most_rows * 4, _MOST_ROWS)

    def committed(self) -> None:
        """Rows were committed, and there is no suspect."""
        self.end_trial()
        self._trial_after_s, self._most_rows = _FIRST_TRIAL_S, _FIRST_ROWS
