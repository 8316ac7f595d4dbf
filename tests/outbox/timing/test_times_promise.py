"""Any course of events: no time is more wrong than its row says, and their order is that of the swipes."""

from __future__ import annotations

import math
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.support.clock_rig import ClockRig
from tests.support.timing_rig import MS, TimingRig, microseconds

# For so long without a time server the kernel still vouches for a clock that may be as wrong as this.
_SYNCED_MS = 16_000


def uncertainty_ms(row: dict[str, Any]) -> float:
    """How wrong a row's time may be, by what its columns mean."""
    if row["clock"] == "synced":
        return _SYNCED_MS
    unknown = 1_000 if row["clock"] == "corrected" else math.inf
    return float(row.get("time_uncertainty_ms", unknown))


class Course(RuleBasedStateMachine):
    """A machine at a door, for hours or months."""

    def __init__(self) -> None:
        super().__init__()
        self._directory = tempfile.TemporaryDirectory()
        self._checked = 0

    @initialize(drift=st.floats(-450e-6, 450e-6), saves_clock=st.booleans())
    def install(self, drift: float, saves_clock: bool) -> None:  # noqa: FBT001 - hypothesis calls by name
        self.machine = ClockRig(drift=drift)
        self.saves_clock = saves_clock
        self.scene = TimingRig(Path(self._directory.name), self.machine)

    @rule(count=st.integers(1, 4), every_s=st.sampled_from([0.0004, 0.5, 40.0, 7_000.0]))
    def swipe(self, count: int, every_s: float) -> None:
        self.scene.swipe(count, every_s=every_s)

    @rule(seconds=st.sampled_from([1.0, 100.0, 20_000.0, 400_000.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.machine.advance(seconds)
        self.scene.look()

    @rule()
    def ntp_comes(self) -> None:
        self.machine.ntp_comes()
        self.scene.look()

    @precondition(lambda self: self.machine.has_ntp)
    @rule()
    def ntp_goes(self) -> None:
        self.machine.ntp_goes()

    @rule(off_s=st.floats(-10_000, 10_000))
    def set_the_clock_by_hand(self, off_s: float) -> None:
        self.machine.set_by_hand(off_s)
        self.scene.look()

    @rule(off_s=st.floats(-1.4, 1.4))
    def server_answers(self, off_s: float) -> None:
        self.scene.observe_server(off_s=off_s)

    @rule(may_wait=st.booleans(), limit=st.sampled_from([1, 3, 1_000]))
    def send(self, may_wait: bool, limit: int) -> None:  # noqa: FBT001 - as above
        self.scene.send(may_wait=may_wait, limit=limit)

    @rule(off_s=st.sampled_from([1.0, 600.0, 90_000.0]))
    def power_cut(self, off_s: float) -> None:
        if self.saves_clock:
            self.machine.wakes_at_us = max(self.machine.wakes_at_us, self.machine.now().wall_us)
        self.scene.power_cut(off_s)

    @rule(is_clean=st.booleans())
    def restart(self, is_clean: bool) -> None:  # noqa: FBT001 - as above
        self.scene.restart(is_clean=is_clean)
        self.scene.look()

    @invariant()
    def times_are_honest_and_in_order(self) -> None:
        if not hasattr(self, "scene"):
            return
        sent = self.scene.sent
        for row in sent[self._checked :]:
            assert abs(self.scene.error_us(row)) <= uncertainty_ms(row) * MS + MS, row
        for one, next_one in pairwise(sent[max(0, self._checked - 1) :]):
            back_us = microseconds(one["event_timestamp"]) - microseconds(next_one["event_timestamp"])
            assert back_us <= (uncertainty_ms(one) + uncertainty_ms(next_one)) * MS, (one, next_one)
        self._checked = len(sent)

    def teardown(self) -> None:
        if hasattr(self, "scene"):
            if self.scene.sent:
                assert self.scene.replayed() == self.scene.sent
            self.scene.outbox.close()
        self._directory.cleanup()


TestCourse = Course.TestCase
TestCourse.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
