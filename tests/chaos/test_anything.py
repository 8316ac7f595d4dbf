"""Generated answers at every endpoint against the real sender, outbox and HTTP client.

The delays of the sender are skipped, not waited for: its clock advances by them.
"""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from agent.keys.keypair import load_private_key
from agent.outbox import Outbox, read_counts
from agent.settings import UploaderSettings
from agent.snowpipe.channel import Channel
from agent.snowpipe.client import Client
from agent.snowpipe.http import Http
from agent.snowpipe.wire import PipeName
from agent.uploader.uploader import Uploader
from tests.support.agent_process import sent_rows
from tests.support.emulator_process import DATABASE, PIPE, SCHEMA, EmulatorProcess
from tests.support.pipe_model import snowflake_settings
from tests.support.rounds import ROUNDS, chances
from tests.support.swipes import DrivenClock, swipe

_ENDPOINTS = ("hostname", "token", "open", "append", "status")
_SHARE = 0.7
_SAMPLE_S = 20.0
_ANSWERS = int(os.environ.get("CHAOS_ANSWERS", "100000"))  # generated, under `make chaos`
_MORE_MEMORY_KB = 60_000
_LONGEST_EXCHANGE_S = 75.0


class _Run:
    """An outbox and an uploader on a skipping clock, an emulator in a process of its own."""

    def __init__(self, directory: Path, pipe: EmulatorProcess) -> None:
        self.clock, self.pipe = DrivenClock(), pipe
        self.outbox = Outbox(directory, agent_id="door")
        self.http = Http(ca_file=None)
        key = load_private_key(pipe.private_key_file)
        self._client = Client(
            self.http,
            snowflake_settings(pipe.url),
            load_key=lambda: key,
            wall_s=time.time,
            monotonic_s=time.monotonic,
        )
        self.uploader = Uploader(
            self.outbox,
            lambda name, _: Channel(self._client, PipeName(DATABASE, SCHEMA, PIPE), name),
            UploaderSettings(),
            clock=self.clock,
            server_time=lambda: None,
            hold_unsynced_s=0,
            monotonic_s=self.clock.monotonic_s,
            random=chances("delays").random,
        )
        self.kept = 0
        self.longest_s = 0.0

    def keep(self) -> None:
        self.kept += 1
        self.outbox.keep(swipe(self.kept, read_at=self.clock.now()))

    def step(self) -> float | None:
        began = time.monotonic()
        delay = self.uploader.step()
        self.longest_s = max(self.longest_s, time.monotonic() - began)
        self.clock.advance(max(delay or 0.0, 1e-3))
        return delay

    @property
    def requests(self) -> int:
        return sum(seen["count"] for seen in self.pipe.state()["requests"].values())

    def drain(self) -> None:
        end = time.monotonic() + 120
        while self.outbox.pending:
            assert time.monotonic() < end, f"{self.outbox.pending} pending: {self.uploader.status()}"
            self.step()
            time.sleep(0.001)  # commits take real time

    def close(self) -> None:
        self.outbox.close()
        self.http.close()


@pytest.mark.timeout(0 if ROUNDS > 1 else 200)
def test_no_generated_answer_loses_doubles_or_sets_aside_a_swipe(tmp_path: Path) -> None:
    seeds = {endpoint: chances(endpoint).getrandbits(32) for endpoint in _ENDPOINTS}
    (state_dir := tmp_path / "state").mkdir()

    with (
        EmulatorProcess(tmp_path / "pipe", commit_lag_seconds=0.01) as pipe,
        closing(_Run(state_dir, pipe)) as run,
    ):
        for endpoint, seed in seeds.items():
            pipe.fault("anything", on=endpoint, seed=seed, share=_SHARE)
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, number, answers = time.monotonic(), 0, 0.0
        while answers < _ANSWERS if ROUNDS > 1 else time.monotonic() - began < _SAMPLE_S:
            number += 1
            if number % 5 == 0:
                run.keep()
            if number % 100 == 0:
                pipe.fault("expire_tokens")
                answers = run.requests * _SHARE
            run.step()
        took_s, requests = time.monotonic() - began, run.requests
        more_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
        pipe.fault("clear")
        run.drain()

        table = Counter(row["event_id"] for row in sent_rows(pipe) if not row.get("replay", False))
        lost, doubled = run.kept - len(table), sum(table.values()) - len(table)
        aside = read_counts(state_dir).set_aside
        print(  # noqa: T201 - the figures of the run
            f"{requests} requests, {requests * _SHARE:.0f} generated answers, {run.kept} swipes: "
            f"{lost} lost, {doubled} doubled, {aside} set aside; memory +{more_kb / 1000:.0f} MB; "
            f"longest step {run.longest_s:.1f} s; {requests / took_s:.0f} requests a second, "
            f"delays skipped; seeds {seeds}"
        )
        assert (lost, doubled, aside) == (0, 0, 0)
        assert more_kb < _MORE_MEMORY_KB
        assert run.longest_s < _LONGEST_EXCHANGE_S
