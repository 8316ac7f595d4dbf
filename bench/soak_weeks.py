"""The whole agent for weeks of simulated time, in one process: what it holds must not grow.

    python -m bench.soak_weeks WEEKS

Each day has hundreds of swipes and drawn faults of the network, the server, the readers and the clock; then
the faults end, the promise is checked, and what is held is released. The simulation forgets the day's rows,
so that what grows in the process is the agent's. Draws docs/soak-weeks.svg. Exit code: 0 if every figure
meets its target. SIGTERM ends it before its time, with the figures of what was run.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from agent.cli.console import table
from agent.outbox.external import holds
from bench.soak import Sample, figures, panels, sample
from bench.soak_plot import draw
from tests.simulation import course
from tests.simulation.checks import what_arrived
from tests.simulation.disk import Disk
from tests.simulation.history import FailedError, History, Plan
from tests.simulation.kinds import EVENTS
from tests.simulation.launch import compiled_disk
from tests.simulation.service import swipes
from tests.simulation.worker import make_keys

_PLOT = Path("docs/soak-weeks.svg")
_SEED = 17
_DAY_S = 86_400.0
_SWIPES_A_DAY = 300
_FAULTS_A_DAY = 20
_PRELOADED = "LD_PRELOAD"
# What a door meets in years without an exception of the promise: nothing is damaged, restored or ended.
_KINDS = (
    *("network_down", "network_slow", "network_breaks_large", "network_loses", "network_drops_idle"),
    *("any_answer", "endpoint_fails", "appends_refused", "pipe_moves", "tokens_expire", "channel_invalid"),
    *("commits_slow", "commits_stall", "requests_too_large", "zstd_refused", "odd_status", "interim_answers"),
    *("key_rotated", "ntp_comes", "ntp_goes", "disk_locked", "flush_fails"),
    *("burst", "noise", "frame_damaged", "unplugged", "stalled", "suspended"),
)


class Weeks:
    """One door, day after day."""

    def __init__(self, place: Path) -> None:
        history_place = place / "history"
        history_place.mkdir()
        self._draw = Random(_SEED)  # noqa: S311 - a soak that can be repeated
        self.history = History(history_place, Plan(_SEED, []), make_keys(place), Disk())
        self.history.door.retention_days = 1.0
        self.days = self.swipes = self.steps = self.faults = 0
        self._next_seq = 1
        self._is_over = False
        self._began_us = self.history.machine.true_us

    def run(self, days: int) -> list[Sample]:
        """A sample after each day. Raises FailedError if a day broke the promise."""
        samples = []
        with self.history.installed():
            self.history.door.start()
            EVENTS["time_service"](self.history, self._draw)
            for _ in range(days):
                if self._is_over:
                    break
                self._day()
                samples.append(self._sample())
        return samples

    def end(self, *_: object) -> None:
        """End after the day that is under way. Also a handler of a signal."""
        self._is_over = True

    def _day(self) -> None:
        history = self.history
        moments = [(self._draw.uniform(0, _DAY_S), "swipe") for _ in range(_SWIPES_A_DAY)]
        moments += [(self._draw.uniform(0, _DAY_S), self._draw.choice(_KINDS)) for _ in range(_FAULTS_A_DAY)]
        begins_s = history.now_s
        for at_s, kind in sorted(moments):
            history.pass_until(max(history.now_s, begins_s + at_s))
            event_draw = Random(self._draw.getrandbits(40))  # noqa: S311 - as above
            if EVENTS[kind](history, event_draw) and kind != "swipe":
                self.faults += 1
            history.service.commit_what_is_due()
        course.heal(history)
        problems = what_arrived(history) + self._numbers()
        if problems:
            raise FailedError(f"day {self.days + 1}: " + "; ".join(problems[:6]))
        holds.release(history.door.state_dir, None)
        self.days += 1
        self.swipes += len(history.swiped)
        self.steps += history.figures.steps
        history.forget()

    def _numbers(self) -> list[str]:
        """The day's rows continue the numbers of the day before."""
        service = self.history.service
        seen = {row["seq"] for row in swipes((*service.landed, *service.not_loaded, *service.refused))}
        last = max(seen, default=self._next_seq - 1)
        missing = set(range(self._next_seq, last + 1)) - seen
        self._next_seq = last + 1
        return [f"numbers are missing: {sorted(missing)[:5]}"] if missing else []

    def _sample(self) -> Sample:
        agent, state_dir = self.history.door.agent, self.history.door.state_dir
        return sample(
            os.getpid(),
            state_dir,
            seconds=(self.history.machine.true_us - self._began_us) / 1e6,
            pending=agent.outbox.pending if agent is not None else 0,
            presented=self.swipes,
        )


def main() -> int:
    """Exit code: 0 if every figure meets its target, 1 if not, 2 for wrong words."""
    weeks = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdecimal() else 0
    if weeks < 1:
        print("usage: python -m bench.soak_weeks WEEKS")
        return 2
    with tempfile.TemporaryDirectory() as name:
        if "/disk.so" not in os.environ.get(_PRELOADED, ""):
            library = str(compiled_disk(os.environ.get("CC", "cc"), Path(name)))
            words = [sys.executable, "-m", "bench.soak_weeks", *sys.argv[1:]]
            environment = os.environ | {_PRELOADED: library, "PYTHONHASHSEED": "0"}
            with subprocess.Popen(words, env=environment) as soak:
                signal.signal(signal.SIGTERM, lambda *_: soak.terminate())
                return soak.wait()
        return _soak(weeks, Path(name))


def _soak(weeks: int, place: Path) -> int:
    logging.disable()
    run, began_s = Weeks(place), time.monotonic()
    signal.signal(signal.SIGTERM, run.end)
    samples = run.run(7 * weeks)
    title = (
        f"The agent in simulated time, {run.days:,} days in one process: {run.swipes:,} swipes, each "
        f"delivered once and in order, through {run.faults:,} faults"
    )
    _PLOT.write_text(draw(title, panels(samples, _DAY_S), "days"))
    print(f"{title}; {run.steps:,} steps in {time.monotonic() - began_s:.0f} s")
    found = figures(samples)
    table(
        ("figure", "measured", "target", ""),
        [(one.name, one.value, one.target, "" if one.holds else "MISSED") for one in found],
    )
    return 0 if all(one.holds for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
