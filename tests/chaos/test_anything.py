"""Generated answers at every endpoint against the real sender, outbox and HTTP client.

The delays of the sender are skipped, not waited for: its clock advances by them.
"""

from __future__ import annotations

import itertools
import logging
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from agent.emulator.anything_values import CARD
from agent.keys.keypair import KeyPair, load_private_key
from agent.outbox import Outbox, read_counts
from agent.outbox.external import holds
from agent.settings import UploaderSettings
from agent.snowpipe.channel import Channel
from agent.snowpipe.client import Client
from agent.snowpipe.http import Http
from agent.snowpipe.wire import PipeName, Reply, Request
from agent.uploader.uploader import Uploader
from tests.support.agent_process import sent_rows
from tests.support.emulator_process import DATABASE, PIPE, SCHEMA, EmulatorProcess
from tests.support.pipe_model import snowflake_settings
from tests.support.rounds import ROUNDS, chances
from tests.support.swipes import DrivenClock, swipe

# The share of generated answers at each endpoint; rows are sent only if the first three answer right.
_SHARES = {"hostname": 0.55, "token": 0.55, "open": 0.75, "append": 0.9, "status": 0.9}
_DOORS = 4  # concurrently, at one server
_SAMPLE_S = 10.0
_ANSWERS = int(os.environ.get("CHAOS_ANSWERS", "100000"))  # generated, under `make chaos`
_MORE_MEMORY_KB = 60_000
_LONGEST_EXCHANGE_S = 75.0
# One call of the sender: two tries, each with a new host and token, the token by two clocks and two scopes.
_MOST_REQUESTS_A_STEP = 12
_PAUSE_S = 0.99


class _ObservedHttp(Http):
    """The real client; notes what it sends, and how long an exchange takes."""

    def __init__(self) -> None:
        super().__init__(ca_file=None)
        self.sent: Counter[str] = Counter()
        self.longest_s = 0.0

    def send(self, base_url: str, request: Request, *, token: str, token_type: str) -> Reply:
        self.sent[request.plane] += 1
        began = time.monotonic()
        try:
            return super().send(base_url, request, token=token, token_type=token_type)
        finally:
            self.longest_s = max(self.longest_s, time.monotonic() - began)


class _Words(logging.Handler):
    """Collects log lines that show a value of a server, or a control character."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines = 0
        self.bad: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        self.check(record.getMessage())

    def check(self, text: str) -> None:
        if CARD in text or not text.isprintable():
            self.bad.append(text)


class _Run:
    """An outbox and an uploader on a skipping clock, an emulator in a process of its own."""

    def __init__(
        self, state_dir: Path, pipe: EmulatorProcess, key: KeyPair, words: _Words, number: int
    ) -> None:
        state_dir.mkdir()
        self.state_dir, self.pipe, self.words = state_dir, pipe, words
        self.clock = DrivenClock()
        self.outbox = Outbox(state_dir, agent_id=f"door-{number}")
        self.http = _ObservedHttp()
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
            random=chances("delays", number).random,
        )
        self.kept = 0
        self.too_soon = 0  # requests less than a second after the last one, while requests fail
        self.most_requests = 0  # in one step
        self._last_request = 0.0

    def keep(self) -> None:
        self.kept += 1
        self.outbox.keep(swipe(self.kept, read_at=self.clock.now()))

    def step(self) -> float | None:
        failures, sent = self.uploader.status().consecutive_failures, self.http.sent.copy()
        at = self.clock.seconds
        delay = self.uploader.step()
        if self.http.sent["ingest"] > sent["ingest"]:
            self.too_soon += failures > 0 and at - self._last_request < _PAUSE_S
            self._last_request = at
        self.most_requests = max(self.most_requests, self.http.sent.total() - sent.total())
        self.words.check(self.uploader.status().reason or "")
        self.clock.advance(max(delay or 0.0, 1e-3))
        return delay

    def work(self, is_over: Callable[[], bool]) -> None:
        """Swipes and steps until it is over."""
        number = 0
        while not is_over():
            number += 1
            if number % 5 == 0:
                self.keep()
            self.step()

    def drain(self) -> None:
        end = time.monotonic() + 120
        while self.outbox.pending:
            assert time.monotonic() < end, f"{self.outbox.pending} pending: {self.uploader.status()}"
            self.step()
            time.sleep(0.001)  # commits take real time

    def close(self) -> None:
        self.outbox.close()
        self.http.close()


class _Server:
    """The emulator, its generators, and what else happens to it."""

    def __init__(self, pipe: EmulatorProcess, seeds: Mapping[str, int]) -> None:
        self._pipe = pipe
        for endpoint, seed in seeds.items():
            pipe.fault("anything", on=endpoint, seed=seed, share=_SHARES[endpoint])
        self._faults = self._other_faults()

    def requests(self) -> dict[str, int]:
        """How many came to each endpoint."""
        return {name: seen["count"] for name, seen in self._pipe.state()["requests"].items()}

    def disturb(self) -> None:
        """Tokens expire, channels get invalid, the pipe moves."""
        next(self._faults)

    def _other_faults(self) -> Iterator[None]:
        hosts = itertools.cycle(("localhost", "127.0.0.1"))
        for old in itertools.cycle((410, 404, 0, 503, 401)):
            self._pipe.fault("expire_tokens")
            yield
            self._pipe.fault("invalidate_channel", code="ERR_CHANNEL_MUST_BE_REOPENED")
            yield
            self._pipe.fault("move", host=next(hosts), old=old)
            yield


def _generated(requests: Mapping[str, int]) -> float:
    """How many answers were generated, for so many requests."""
    return sum(requests[endpoint] * share for endpoint, share in _SHARES.items())


def _ecdsa_key(directory: Path) -> tuple[KeyPair, Path]:
    """A key that signs quickly, and the file with its public part."""
    key = ec.generate_private_key(ec.SECP256R1())
    private, public = directory / "key.p8", directory / "key.pub"
    private.touch(mode=0o600)
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return load_private_key(private), public


@contextmanager
def _log_lines() -> Iterator[_Words]:
    """Every log line of the agent goes here only: pytest would keep each, with the answer it is about."""
    logger, words = logging.getLogger("agent"), _Words()
    before = logger.level, logger.propagate
    logger.addHandler(words)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        yield words
    finally:
        logger.removeHandler(words)
        logger.level, logger.propagate = before


@pytest.mark.timeout(0 if ROUNDS > 1 else 200)
def test_no_generated_answer_loses_doubles_or_sets_aside_a_swipe(tmp_path: Path) -> None:
    seeds = {endpoint: chances(endpoint).getrandbits(32) for endpoint in _SHARES}
    key, public_key = _ecdsa_key(tmp_path)

    with ExitStack() as stack:
        words = stack.enter_context(_log_lines())
        pipe = stack.enter_context(
            EmulatorProcess(
                tmp_path / "pipe",
                public_key_file=public_key,
                commit_lag_seconds=0.01,
                options=["--no-limits"],
            )
        )
        runs = [
            stack.enter_context(closing(_Run(tmp_path / f"door-{number}", pipe, key, words, number)))
            for number in range(_DOORS)
        ]
        server, over = _Server(pipe, seeds), threading.Event()
        before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began, is_over = time.monotonic(), False
        with ThreadPoolExecutor(_DOORS) as threads:
            stack.callback(over.set)
            working = [threads.submit(run.work, over.is_set) for run in runs]
            while not is_over and not any(one.done() for one in working):
                server.disturb()
                over.wait(0.5)
                if ROUNDS == 1:
                    is_over = time.monotonic() - began >= _SAMPLE_S
                elif sum(run.http.sent.total() for run in runs) >= _ANSWERS:  # else it cannot be over yet
                    is_over = _generated(server.requests()) >= _ANSWERS
            over.set()
        for one in working:
            one.result()
        took_s, requests = time.monotonic() - began, server.requests()
        committed = sum(run.outbox.state.committed_n for run in runs)
        more_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb
        pipe.fault("clear")
        for run in runs:
            run.drain()

        for hold in (hold for run in runs for hold in holds.holds(run.state_dir)):
            words.check(hold.reason)
        table = Counter(row["event_id"] for row in sent_rows(pipe) if not row.get("replay", False))
        kept = sum(run.kept for run in runs)
        lost, doubled = kept - len(table), sum(table.values()) - len(table)
        aside = sum(read_counts(run.state_dir).set_aside for run in runs)
        longest_s, too_soon = max(run.http.longest_s for run in runs), sum(run.too_soon for run in runs)
        most_requests = max(run.most_requests for run in runs)
        print(  # noqa: T201 - the figures of the run
            f"{_DOORS} doors, requests: {requests}, {_generated(requests):.0f} answers generated; "
            f"{kept} swipes, {committed} committed meanwhile: "
            f"{lost} lost, {doubled} doubled, {aside} set aside; "
            f"memory +{more_kb / 1000:.0f} MB; longest exchange {longest_s:.2f} s; "
            f"{sum(requests.values()) / took_s:.0f} requests a second with delays skipped, "
            f"{too_soon} less than a second after the last one while failing, "
            f"at most {most_requests} in one step; "
            f"{words.lines} log lines, {len(words.bad)} with a server's value; seeds {seeds}"
        )
        assert (lost, doubled, aside) == (0, 0, 0)
        assert words.bad == []
        assert too_soon == 0
        assert most_requests <= _MOST_REQUESTS_A_STEP
        assert more_kb < _MORE_MEMORY_KB
        assert longest_s < _LONGEST_EXCHANGE_S
