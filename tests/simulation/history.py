"""One history of a door: drawn events in simulated time, then all faults end, then the promise is checked."""

from __future__ import annotations

import contextlib
import json
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple
from urllib.parse import SplitResult

import pytest

from agent.errors import SnowpipeError
from agent.keys.keypair import KeyPair
from agent.outbox.database import open_external
from agent.outbox.file_errors import QUERY_ERRORS
from agent.service import upload_loop
from agent.snowpipe.connection import Dialer, Limits
from agent.uploader.channel_switch import ChannelSwitch
from tests.simulation.disk import Disk
from tests.simulation.door import BugError, Door
from tests.simulation.lines import Lines
from tests.simulation.machine import Machine
from tests.simulation.network import Connection, Network
from tests.simulation.service import Service

# A door that steps without end; what requests may be made in an outage of days is checked afterwards.
_MOST_STEPS, _MOST_STEPS_PER_S = 20_000, 0.5
# So long after the last byte of a frame its card is in the queue.
_FRAME_US = 300_000
# After a request that failed, this much passes before the next; those of one call count as one.
_PAUSE_S = 0.99
_LEAST_PATIENCE_S = 45.0  # a minute, in which leap seconds may be
_NEVER = -math.inf


class Keys(NamedTuple):
    """Two keys of the door, made once for all histories."""

    files: tuple[Path, Path]
    keys: tuple[KeyPair, KeyPair]


@dataclass
class Swiped:
    """One presentation of a card."""

    true_us: int
    reader: int
    repeated_us: int = 0  # when its frame was sent for the last time, if the card was held
    may_be_lost: bool = False
    may_be_doubled: bool = False
    went_back: bool = False  # committed, then lost by the server: it comes again if it is still stored


@dataclass
class Plan:
    """What is drawn for a history before it begins: each event has the seconds
    after the one before it, a kind and a seed of its own."""

    seed: int
    events: list[tuple[float, str, int]]


@dataclass
class Figures:
    """What histories add up to."""

    steps: int = 0
    histories: int = 0
    swipes: int = 0
    requests: int = 0
    simulated_s: float = 0.0
    drawn: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)


class FailedError(AssertionError):
    """The promise was broken."""


class History:
    """The parts of one history, and what has happened so far."""

    def __init__(self, place: Path, plan: Plan, keys: Keys, disk: Disk) -> None:
        self.plan = plan
        self.draw = Random(f"{plan.seed} ambient")
        self.disk = disk
        self.figures = Figures(histories=1)
        self.place = place
        self.machine = Machine(place, disk, Random(f"{plan.seed} machine"))
        self.service = Service(self.machine, {keys.keys[0].fingerprint}, Random(f"{plan.seed} service"))
        self.network = Network(self.machine, self.service.serve)
        self.keys = keys
        self.key_number = 0
        self.key_file = place / "key.p8"
        shutil.copy(keys.files[0], self.key_file)
        self.lines = Lines(place, self.machine)
        self.door = Door(place, self.machine, self.lines, self.key_file, Random(f"{plan.seed} door"))
        self.swiped: dict[int, Swiped] = {}
        self.windows: list[tuple[float, int, Callable[[], None]]] = []
        self.backup: Path | None = None
        # What makes exceptions of the promise.
        self.is_damaged = False
        self.has_lost_frames = False
        self.is_log_damaged = False  # the write-ahead log, of the process that runs
        self.was_disk_full = False
        self.is_restored = False
        self.went_back = False
        self.is_time_void = False
        self.had_other_history = False
        self.released: list[tuple[str, int]] = []  # outbox id and number of rows whose hold was released
        self._failed_at = _NEVER
        self.first_us = self.machine.true_us

    # --- the run ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """In place of the system, the network and the lines of this process."""
        replaced = pytest.MonkeyPatch()
        with self.machine.installed(self.draw):
            try:
                replaced.setenv("NOTIFY_SOCKET", "/simulated")
                for name, value in self.lines.replaced():
                    replaced.setattr(name, value)
                replaced.setattr("agent.snowpipe.connection.Dialer.connect", self._connect())
                replaced.setattr(ChannelSwitch, "gives_up", self._gives_up())
                replaced.setattr(upload_loop, "_CLOCK_READ_EVERY_S", self._clock_read_every_s())
                yield
            finally:
                self.disk.recover()
                with contextlib.suppress(Exception):
                    self.door._abandon()
                self.lines.forget_stored()
                replaced.undo()
                self.network.close()

    def _clock_read_every_s(self) -> float:
        """How often an idle uploader reads the clock: more often only costs steps in a long history."""
        planned_s = sum(after_s for after_s, _, _ in self.plan.events)
        return max(planned_s / 1_000, self.draw.choice((10.0, 60.0, 600.0, 600.0)))

    def _connect(self) -> Callable[..., object]:
        def connect(dialer: Dialer, url: SplitResult, limits: Limits) -> Connection:
            return self.network.connect(dialer, url, limits)

        return connect

    def _gives_up(self) -> Callable[..., bool]:
        original = ChannelSwitch.gives_up

        def gives_up(switching: ChannelSwitch, error: SnowpipeError, now: float) -> bool:
            is_given_up = original(switching, error, now)
            if is_given_up:
                self._old_channel_given_up()
            return is_given_up

        return gives_up

    def _old_channel_given_up(self) -> None:
        """Rightly, if opening it was refused for a minute: what was on its way in it may arrive twice."""
        if self.service.clock.seconds - self.service.open_refused_s < _LEAST_PATIENCE_S:
            raise FailedError("an old channel was given up that was not refused")
        # Where the file is damaged, no doubling is a problem.
        with self.disk.healthy(), contextlib.suppress(*QUERY_ERRORS):
            for number in self._pending():
                self.swiped[number].may_be_doubled = True

    def _pending(self) -> list[int]:
        """The swipes that the door does not know to be committed."""
        assert self.door.agent is not None
        query, committed_n = "SELECT row FROM swipes WHERE n > ?", self.door.agent.outbox.state.committed_n
        with closing(open_external(self.door.state_dir, "ro")) as connection:
            numbers = [number_in(row) for (row,) in connection.execute(query, (committed_n,))]
        return [number for number in numbers if number in self.swiped]

    @property
    def now_s(self) -> float:
        """True time."""
        return self.machine.true_us / 1e6

    def pass_until(self, until_s: float) -> None:
        """Run the door's threads, and end windows, up to a moment."""
        while True:
            due_s = min(self.door.due.values(), default=math.inf)
            window_s = self.windows[0][0] if self.windows else math.inf
            next_s = min(due_s, window_s)
            if next_s > until_s:
                self.machine.advance_us(max(0, math.ceil((until_s - self.now_s) * 1e6)))
                return
            self.machine.advance_us(max(0, math.ceil((next_s - self.now_s) * 1e6)))
            if window_s <= due_s:
                self.windows.pop(0)[2]()
            else:
                self._step()

    def _step(self) -> None:
        """One step of one thread."""
        self.figures.steps += 1
        passed_s = self.now_s - self.first_us / 1e6
        if self.figures.steps > _MOST_STEPS + passed_s * _MOST_STEPS_PER_S:
            raise FailedError("the door steps without end")
        requests = len(self.network.requests)
        began_s = self.machine.boot_us / 1e6  # without leap seconds, with suspensions
        of_replays = self._failures_of_replays
        try:
            self.door.step()
        except FailedError:
            raise
        except Exception as error:
            if not self.disk.is_frozen:
                raise BugError(f"a thread died of {type(error).__name__}: {error}") from error
        self.door.pass_time(self.disk.slept_s() + 2e-5)
        if self.disk.is_frozen:
            self.kill()
            return
        if len(self.network.requests) > requests:
            after_s = began_s - self._failed_at
            # A replay that fails, also in its sign-in, does not delay live rows.
            is_failing = self.network.last_failed and self._failures_of_replays <= of_replays
            self._failed_at = began_s if is_failing else _NEVER
            if after_s < _PAUSE_S and not self.is_damaged:  # with a new file a sender starts over
                raise FailedError(f"a request {after_s:.3f} s after one that failed")

    @property
    def _failures_of_replays(self) -> int:
        return self.door.agent.uploader._replay.failures if self.door.agent is not None else 0

    def window(self, seconds: float, end: Callable[[], None]) -> None:
        """Call `end` after so many seconds."""
        self.windows.append((self.now_s + seconds, len(self.windows), end))
        self.windows.sort(key=lambda one: one[:2])

    # --- the process --------------------------------------------------------------------------------

    def kill(self, copy: Callable[[Path, Path], object] | None = None) -> None:
        """The process dies: swipes in memory may be lost."""
        for swipe in self.door.waiting():
            self.swiped[number_of(swipe.card.raw)].may_be_lost = True
        for reader, line in enumerate(self.lines.lines):  # a frame may be in the memory of the process
            # Here a port may be held up by another thread.
            overdue_s = max(0.0, self.now_s - self.door.due.get(f"port {reader}", math.inf))
            for number, read_us in line.read_us.items():
                in_memory = self.machine.true_us - read_us < _FRAME_US + overdue_s * 1e6
                self.swiped[number].may_be_lost |= in_memory
        if self.is_log_damaged:
            self.lose_frames()
        self.disk.freeze_after(-1)
        self._failed_at = _NEVER
        self.door.kill(copy or self.disk.copy)
        self.door.due = {"start": self.now_s + 3.0}

    def lose_frames(self) -> None:
        """After a crash the last two flushed transactions of a damaged log may count as never written."""
        self.is_log_damaged = False
        self.has_lost_frames = True
        # A transaction has one swipe, or up to four that came within the 0.1 s between two.
        for number, swiped in self.swiped.items():
            swiped.may_be_lost |= number > len(self.swiped) - 8

    def stop(self) -> None:
        """A clean stop; what cannot be stored until its end is lost."""
        self.is_log_damaged = False  # all of it is copied into the file
        for swipe in self.door.stop():
            self.swiped[number_of(swipe.card.raw)].may_be_lost = True
        self.disk.freeze_after(-1)
        self._failed_at = _NEVER
        self.door.due.clear()

    def forget(self) -> None:
        """Everything that was presented has arrived: the next part of the history begins without it."""
        self.swiped.clear()
        self.figures = Figures()
        self.first_us = self.machine.true_us
        self.network.requests.clear()
        self.service.forget()
        for line in self.lines.lines:
            line.read_us.clear()
            line.discarded.clear()

    @property
    def lost_holds(self) -> int:
        """Numbers that are held because nothing is left of their rows, or not enough to name the swipe."""
        with closing(open_external(self.door.state_dir, "ro")) as connection:
            (found,) = connection.execute(
                "SELECT total(last_n - first_n + 1) FROM held WHERE released = 0 AND kind = 'set_aside'"
            ).fetchone()
        return int(found)


def number_of(raw: str) -> int:
    """The number of the swipe of a card."""
    return int(raw, 16) & 0xFFFFFFFF


def number_in(row: bytes) -> int | None:
    """The number of the swipe in a stored row; None for a damaged one."""
    try:
        return number_of(json.loads(row)["card_raw"])
    except (ValueError, KeyError, TypeError):
        return None
