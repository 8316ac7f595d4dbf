"""Which rows are refused for their own sake: learned from outcomes; pure.

Snowflake skips and counts rows that do not load, and documents no answer for a bad one: a refusal is no
evidence against a row. A row that is refused on its own is retried slowly. Only after an hour, in which an
outage does not count, is it a suspect, and a trial begins: the rows after it are sent one at a time, until
one is accepted or enough were refused. Accepted: once that row is committed, the suspect and every row
between them, each refused in this trial, are set aside. Refused: the suspicion is withdrawn, and the next
trial begins after twice the time, with four times as many rows. So bad rows next to each other are found,
and a pipe that refuses everything costs few requests and sets nothing aside. Each trial in which a row was
accepted shows that the pipe refuses single rows: within the next hour the next bad row needs less time.
"""

from __future__ import annotations

from agent.outbox import Position

# How long a row is refused until it is a suspect, after so many trials in which a row was accepted.
_TRIAL_AFTER_S = (3_600.0, 300.0, 30.0, 1.0)
# Of the time between two refusals at most so much counts: in an outage the row is not tried.
_LONGEST_PAUSE_S = 900.0
_SOON_S = 30.0  # up to this time a row is retried without a pause
_PROOF_S = 3_600.0  # so long a trial counts
_LONGEST_S = 86_400.0
_MOST_DOUBLINGS = 5  # enough for the longest time
# How many rows a trial sends. More refused rows in a row than the last number are the pipe's fault.
_FIRST_ROWS, _MOST_ROWS = 4, 1_024


class RefusedRows:
    """The rows of one source that are refused on their own. `now` is in seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._row: Position | None = None  # refused on its own, retried since
        self._refused_s = 0.0
        self._refused_at = 0.0
        self._proofs = 0  # trials in which a row was accepted
        self._proved_at = 0.0
        self._doublings = 0
        self._most_rows = _FIRST_ROWS
        self.end_trial()

    def end_trial(self) -> None:
        """No row is passed over, or the source is another one."""
        self.passed: Position | None = None  # the last row that was refused in the present trial
        self._tried = 0
        self._is_trial = False

    def begin_trial(self) -> None:
        """The row refused last is the suspect: the rows after it are tried."""
        self.end_trial()
        self._is_trial = True

    def accepted(self) -> None:
        """An append was accepted."""
        self._row = None

    def refused(self, row: Position, now: float) -> bool:
        """A row was refused on its own. True if this lasted for long enough to make it a suspect."""
        if self._row == row:
            self._refused_s += min(now - self._refused_at, _LONGEST_PAUSE_S)
        else:
            self._row, self._refused_s = row, 0.0
            if now - self._proved_at > _PROOF_S:
                self._proofs = 0
        self._refused_at = now
        return self._refused_s >= self._trial_after_s

    @property
    def retries_soon(self) -> bool:
        """True if the refused row is retried without a pause."""
        return self._trial_after_s <= _SOON_S

    @property
    def _trial_after_s(self) -> float:
        first_s = _TRIAL_AFTER_S[min(self._proofs, len(_TRIAL_AFTER_S) - 1)]
        return min(first_s * 2.0**self._doublings, _LONGEST_S)

    def refused_in_trial(self, row: Position) -> bool:
        """A row after the suspect was refused on its own. True if the trial continues with the next one."""
        self.passed = row
        self._tried += 1
        return self._tried < self._most_rows

    def withdrawn(self, suspect: Position, now: float) -> None:
        """No row of the trial was accepted: the cause is not the rows."""
        self.end_trial()
        self._row, self._refused_s, self._refused_at = suspect, 0.0, now
        self._proofs, self._doublings = 0, min(self._doublings + 1, _MOST_DOUBLINGS)
        self._most_rows = min(self._most_rows * 4, _MOST_ROWS)

    def committed(self, now: float) -> None:
        """Rows were committed, and there is no suspect any more."""
        if self._is_trial:
            self._proofs, self._proved_at = self._proofs + 1, now
        self.end_trial()
        self._doublings, self._most_rows = 0, _FIRST_ROWS
