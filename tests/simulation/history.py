"""One history of a door: drawn events in simulated time, then all faults end, then the promise is checked."""

from __future__ import annotations

import contextlib
import functools
import math
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest

from agent.keys.keypair import KeyPair
from agent.outbox.database import open_external
from agent.service import upload_loop
from tests.simulation.disk import Disk
from tests.simulation.door import BugError, Door
from tests.simulation.lines import Lines
from tests.simulation.machine import Machine
from tests.simulation.network import Network
from tests.simulation.service import Service

# After the last fault: a Retry-After that is honoured for an hour, probes in pauses that double.
_HEALS_IN_S = 3 * 3_600.0
# A new outbox id waits for up to a day after others without a commit.
_LONGEST_SWITCH_S = 26 * 3_600.0
_MOST_STEPS = 60_000
# So long after the last byte of a frame its card is in the queue.
_FRAME_US = 300_000
_HOUR_S = 3_600.0
# After a request that failed, this much passes before the next; those of one call count as one.
_PAUSE_S = 0.99


class Keys(NamedTuple):
    """Two keys of the door, made once for all histories."""

    files: tuple[Path, Path]
    keys: tuple[KeyPair, KeyPair]


@dataclass
class Swiped:
    """One presentation of a card."""

    true_us: int
    reader: int
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
        self.is_restored = False
        self.has_replays = False
        self.went_back = False
        self.is_time_void = False
        self.had_other_history = False
        self._failed_at_s = -math.inf
        self._first_us = self.machine.true_us

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> Figures:
        """Everything that is planned, the end of all faults, and the checks."""
        from tests.simulation.checks import check
        from tests.simulation.events import EVENTS

        with self._installed():
            self.door.start()
            for after_s, kind, seed in self.plan.events:
                self.pass_until(self.now_s + after_s)
                if EVENTS[kind](self, Random(seed)):
                    self.figures.drawn[kind] += 1
                self.service.commit_what_is_due()
            self.heal()
            for line in self.lines.lines:
                for number in line.discarded:
                    self.swiped[number].may_be_lost = True
            check(self)
        self.figures.swipes = len(self.swiped)
        self.figures.requests = len(self.network.requests)
        self.figures.simulated_s = (self.machine.true_us - self._first_us) / 1e6
        return self.figures

    @contextlib.contextmanager
    def _installed(self) -> Iterator[None]:
        replaced = pytest.MonkeyPatch()
        with self.machine.installed(self.draw):
            try:
                replaced.setenv("NOTIFY_SOCKET", "/simulated")
                for name, value in self.lines.replaced():
                    replaced.setattr(name, value)
                replaced.setattr("agent.snowpipe.connection.Dialer.connect", self._connect())
                # How often an idle uploader reads the clock: more often only costs time here.
                replaced.setattr(upload_loop, "_CLOCK_READ_EVERY_S", self.draw.choice((10.0, 60.0, 600.0, 600.0)))
                yield
            finally:
                self.disk.recover()
                with contextlib.suppress(Exception):
                    self.door._abandon()
                self.lines.forget_stored()
                replaced.undo()
                self.network.close()

    def _connect(self) -> Callable[..., object]:
        return lambda dialer, url, limits: self.network.connect(dialer, url, limits)

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
        if self.figures.steps > _MOST_STEPS:
            raise FailedError("the door steps without end")
        requests = len(self.network.requests)
        began_s = self.now_s
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
            after_s = began_s - self._failed_at_s
            self._failed_at_s = began_s if self.network.last_failed else -math.inf
            if after_s < _PAUSE_S:
                raise FailedError(f"a request {after_s:.3f} s after one that failed")

    def window(self, seconds: float, end: Callable[[], None]) -> None:
        """Call `end` after so many seconds."""
        self.windows.append((self.now_s + seconds, len(self.windows), end))
        self.windows.sort(key=lambda one: one[:2])

    # --- the process --------------------------------------------------------------------------------

    def kill(self, copy: Callable[[Path, Path], object] | None = None) -> None:
        """The process dies: swipes in memory may be lost."""
        for swipe in self.door.waiting():
            self.swiped[number_of(swipe.card.raw)].may_be_lost = True
        for swiped in self.swiped.values():  # its frame may be in the memory of the process
            swiped.may_be_lost |= self.machine.true_us - swiped.true_us < _FRAME_US
        self.disk.freeze_after(-1)
        self._failed_at_s = -math.inf
        self.door.kill(copy or self.disk.copy)
        self.door.due = {"start": self.now_s + 3.0}

    def stop(self) -> None:
        """A clean stop; what cannot be stored until its end is lost."""
        for swipe in self.door.stop():
            self.swiped[number_of(swipe.card.raw)].may_be_lost = True
        self.disk.freeze_after(-1)
        self._failed_at_s = -math.inf
        self.door.due.clear()

    # --- the end of all faults ------------------------------------------------------------------------

    def heal(self) -> None:
        """Every fault ends; the door runs until everything is delivered."""
        from tests.simulation.events import present

        lasting = self._lasting()
        for _, _, end in self.windows:
            end()
        self.windows.clear()
        self.disk.recover()
        self.disk.freeze_after(-1)
        self.network.recover()
        self.service.recover()
        for line in self.lines.lines:
            if not line.is_plugged:
                line.plug()
        self.machine.free_blocks = 5_000_000
        upload_loop._CLOCK_READ_EVERY_S = _HOUR_S
        if not self.machine.has_ntp and self.draw.random() < 0.6:
            self.machine.ntp_comes()
        if self.is_damaged:  # what no query has found yet, the next start finds
            self.stop()
        if not self.door.is_running and not self.door.due:
            self.door.start()
        if lasting:
            for end in lasting:
                end()
            self._deliver()
            self.network.recover()
            self.service.recover()
        self._deliver()
        # A door that had nothing to send asks nothing: what the server has lost shows at the next swipe.
        for _ in range(2):
            present(self, self.draw)
            self.pass_until(self.now_s + 5.0)
        self._deliver()
        # Errors may be counted late: one more poll. Then nothing is left to do.
        self.pass_until(self.now_s + 700.0)
        requests, flushes = len(self.network.requests), self.disk.flushes
        self.pass_until(self.now_s + _HOUR_S)
        if len(self.network.requests) > requests:
            raise FailedError(f"an idle door sent {len(self.network.requests) - requests} requests in an hour")
        if self.disk.flushes - flushes > 20:
            raise FailedError(f"an idle door flushed {self.disk.flushes - flushes} times in an hour")

    def _lasting(self) -> list[Callable[[], None]]:
        """What a door has to cope with for ever, half of what there is at the moment: each sets it again."""
        service, network = self.service, self.network
        found: list[tuple[object, str, object]] = [
            (service, "refused_encoding", service.refused_encoding),
            (service, "takes_bytes", service.takes_bytes),
            (service, "interim", service.interim),
            (network, "takes_bytes", max(2_500, network.takes_bytes)),
            (network, "bytes_per_s", max(1_000.0, network.bytes_per_s)),
        ]
        if "status" in service.endpoint_fails:
            found.append((service, "endpoint_fails", {"status": (503, "", None)}))
        return [
            functools.partial(setattr, where, name, value)
            for where, name, value in found
            if self.draw.random() < 0.5
        ]

    def _deliver(self) -> None:
        """Run until nothing is pending."""
        has_switched = len(self.service.channels) > 1 or self.had_other_history or self.is_restored
        ends_s = self.now_s + _HEALS_IN_S + 2 * (self.now_s - self._first_us / 1e6)
        ends_s += _LONGEST_SWITCH_S if has_switched else 0.0
        while not self._is_done():
            if self.now_s > ends_s:
                agent = self.door.agent
                status = agent.uploader.status() if agent is not None else None
                pending = agent.outbox.pending if agent is not None else None
                raise FailedError(f"{pending} swipes are not delivered long after the last fault: {status}")
            self.pass_until(min(self.door.due.values(), default=self.now_s + 1.0))

    def _is_done(self) -> bool:
        agent = self.door.agent
        if agent is None or agent.outbox.needs_inspection.is_set() or agent.outbox.state.recoveries:
            return False
        if self.door.waiting() or agent.outbox.pending:
            return False
        with self.disk.healthy(), agent.outbox.file.reading() as connection:
            (replays,) = connection.execute("SELECT count(*) FROM replays").fetchone()
        return replays == 0 and not agent.outbox.is_switch_due


    def held_rows(self) -> list[int]:
        """The swipes that are held for an operator now."""
        from tests.simulation.checks import held_rows

        with self.disk.healthy():
            return [number for _, numbers, _ in held_rows(self) for number in numbers]

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


def plan(seed: int) -> Plan:
    """Draw a history: a swarm of kinds with their own rates, and a time scale."""
    from tests.simulation.events import ALWAYS, EVENTS

    draw = Random(f"{seed} plan")
    kinds = sorted(EVENTS.keys() - ALWAYS)
    chosen = draw.sample(kinds, draw.randint(3, 12))
    weights = {kind: 10 ** draw.uniform(-1, 0.7) for kind in chosen} | dict(ALWAYS)
    scale_s = draw.choice((0.3, 3.0, 30.0, 300.0, 2_000.0))
    events = []
    for _ in range(draw.choice((10, 20, 40))):
        after_s = draw.expovariate(1.0) * scale_s * draw.choice((0.02, 1.0, 1.0, 3.0))
        kind = draw.choices(list(weights), list(weights.values()))[0]
        events.append((after_s, kind, draw.getrandbits(40)))
    return Plan(seed, events)


def only(whole: Plan, kept: Sequence[int]) -> Plan:
    """The plan with these of its events."""
    return Plan(whole.seed, [whole.events[number] for number in kept])
