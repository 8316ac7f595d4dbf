"""An outbox, the model of a pipe, and the uploader between them, on a clock that the test drives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypedDict, Unpack

import pytest

from agent.keys.keypair import KeyPair
from agent.outbox import Heartbeats, Outbox, read_counts
from agent.outbox.external import replay_queue
from agent.outbox.holds import Kind
from agent.settings import UploaderSettings
from agent.uploader.uploader import Uploader
from tests.support.outbox_rig import recover
from tests.support.pipe_model import PipeModel, open_channel
from tests.support.swipes import DrivenClock, swipe


class Wish(TypedDict, total=False):
    """The filters of a replay request."""

    kind: Kind
    first_seq: int
    last_seq: int
    first_us: int
    last_us: int


class UploaderRig:
    """An outbox, an uploader and a modelled pipe; only keep(), replay() and run() change them."""

    def __init__(
        self,
        state_dir: Path,
        key: KeyPair,
        *,
        lag_s: float = 0.1,
        way_s: float = 0.01,
        settings: UploaderSettings | None = None,
        machine_id: str = "",
        pipe: str = "PIPE",
        wall_off_s: float = 0.0,
        events_pipe: str = "",
        heartbeats: Heartbeats | None = None,
    ) -> None:
        """`wall_off_s`: the wall clock is off by so much, and not synchronised."""
        self.clock = DrivenClock()
        self.clock.wall_off_s, self.clock.trusted = wall_off_s, wall_off_s == 0.0
        self.pipe = PipeModel(self.clock, lag_s=lag_s, way_s=way_s)
        self.state_dir = state_dir
        self.machine_id = machine_id
        self.agent_id = "door"
        self.pipe_name = pipe
        self.outbox = self._open_outbox()
        self.kept = 0
        self._images = 0
        self._key = key
        self._settings = settings or UploaderSettings()
        self.events_pipe = events_pipe
        self.heartbeats = heartbeats
        self.uploader = self.new_uploader()

    def new_uploader(self) -> Uploader:
        """Replace the uploader, as a restart of the agent does."""
        self.uploader = Uploader(
            self.outbox,
            open_channel(self.pipe, self._key, self.clock),
            self._settings,
            clock=self.clock,
            server_time=lambda: None,
            hold_unsynced_s=120,
            monotonic_s=self.clock.monotonic_s,
            random=lambda: 0.25,
            events_pipe=self.events_pipe,
            heartbeats=self.heartbeats,
        )
        return self.uploader

    def crash(self) -> None:
        """The process dies between two steps: a new one finds the files as they are at that moment."""
        self.restore(self.image())

    def image(self) -> Path:
        """A copy of the outbox and of quarantined files as they are at this moment."""
        self._images += 1
        copy = self.state_dir.parent / f"image-{self._images}"
        copy.mkdir()
        for path in self.state_dir.glob("outbox.db*"):
            if not path.name.endswith("-shm"):  # made again from the WAL
                shutil.copyfile(path, copy / path.name)
        return copy

    def restore(self, state_dir: Path) -> None:
        """Replace the state directory by another one."""
        self.outbox.close()
        self.state_dir = state_dir
        self.outbox = self._open_outbox()
        self.new_uploader()

    def _open_outbox(self) -> Outbox:
        return Outbox(self.state_dir, agent_id=self.agent_id, pipe=self.pipe_name, machine_id=self.machine_id)

    def restart(
        self, *, agent_id: str | None = None, pipe: str | None = None, machine_id: str | None = None
    ) -> None:
        """Kill the agent and start it again, as another door, with another pipe, or on another machine."""
        self.agent_id = agent_id or self.agent_id
        self.pipe_name = pipe or self.pipe_name
        self.machine_id = machine_id or self.machine_id
        self.crash()

    def keep(self, count: int) -> None:
        """Store swipes; cards are numbered in the order of their swipes."""
        first, self.kept = self.kept + 1, self.kept + count
        now = self.clock.now()
        self.outbox.keep(*(swipe(value, read_at=now) for value in range(first, first + count)))

    def replay(self, **wanted: Unpack[Wish]) -> list[bytes]:
        """Request a replay. Returns the rows that it is to send."""
        ranges = replay_queue.find(self.state_dir, replay_queue.Wanted(**wanted))
        replay_queue.request(self.state_dir, ranges)
        return list(replay_queue.rows_in(self.state_dir, ranges))

    def run(self, seconds: float = 86_400.0) -> None:
        """Step until the uploader is idle, or for so many seconds."""
        end = self.clock.seconds + seconds
        for _ in range(20_000):
            if self.clock.seconds >= end:
                return
            recover(self.outbox)
            delay = self.uploader.step()
            if delay is None:
                return
            # A machine's clock also advances between two steps that follow immediately.
            self.clock.advance(max(min(delay, end - self.clock.seconds), 1e-6))
        pytest.fail("the uploader steps without making progress")

    def drain(self) -> None:
        """Run until all is committed and nothing is left to do."""
        self.run(100_000.0)  # an error count that cannot be read is asked for during a day
        assert self.outbox.pending == 0
        assert read_counts(self.state_dir).replays == 0
        assert self.uploader.step() is None

    def close(self) -> None:
        self.outbox.close()
        self.pipe.close()
