"""An outbox, the model of a pipe, and the uploader between them, on a clock that the test drives."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.lane import Limits
from agent.outbox import Outbox
from agent.snowpipe.jwt import KeyPair
from agent.uploader import Uploader
from tests.pipe_model import PipeModel, open_channel
from tests.swipes import DrivenClock, swipe

LIMITS = Limits(
    max_request_bytes=4_000_000,
    max_requests_per_second=10,
    max_bytes_per_second=20_000_000,
    backoff_max_seconds=60,
)


class Door:
    """Nothing happens in it but by keep() and run()."""

    def __init__(
        self,
        state_dir: Path,
        key: KeyPair,
        *,
        lag_s: float = 0.1,
        way_s: float = 0.01,
        limits: Limits = LIMITS,
    ) -> None:
        self.clock = DrivenClock()
        self.pipe = PipeModel(self.clock, lag_s=lag_s, way_s=way_s)
        self.outbox = Outbox(state_dir, agent_id="door")
        self._key = key
        self._limits = limits
        self.uploader = self.new_uploader()

    def new_uploader(self) -> Uploader:
        """What a restart of the agent makes."""
        self.uploader = Uploader(
            self.outbox,
            open_channel(self.pipe, self._key, self.clock),
            self._limits,
            monotonic_s=self.clock.monotonic_s,
            random=lambda: 0.25,
        )
        return self.uploader

    def keep(self, count: int) -> None:
        self.outbox.keep(*(swipe(value) for value in range(count)))

    def run(self, seconds: float = 86_400.0) -> None:
        """Step until only a new swipe could give something to do, or for so long."""
        end = self.clock.seconds + seconds
        for _ in range(20_000):
            if self.clock.seconds >= end:
                return
            delay = self.uploader.step()
            if delay is None:
                return
            # As the clock of a machine goes on also between two steps that follow at once.
            self.clock.advance(max(min(delay, end - self.clock.seconds), 1e-6))
        pytest.fail("the uploader steps for ever without getting anywhere")

    def drain(self) -> None:
        """Run until all is committed and nothing is left to do."""
        self.run()
        assert self.outbox.committed_seq == self.outbox.last_seq
        assert self.uploader.step() is None

    def close(self) -> None:
        self.outbox.close()
        self.pipe.close()
