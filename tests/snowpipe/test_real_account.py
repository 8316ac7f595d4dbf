"""The client against the emulator where a real account differs from an idealised server."""

from __future__ import annotations

import os
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest

from agent.clock.system_clock import boottime_s
from agent.errors import ChannelLostError, SnowpipeError, TransientError
from agent.keys.keypair import load_private_key
from agent.snowpipe.channel import Append, Channel
from agent.snowpipe.client import Client
from agent.snowpipe.http import Http
from agent.snowpipe.refusal import UNCOMMITTED_DATA
from agent.snowpipe.wire import PipeName
from tests.support.emulator_process import DATABASE, PIPE, SCHEMA, EmulatorProcess
from tests.support.pipe_model import snowflake_settings
from tests.support.swipes import wait_until

ROW = (
    b'{"badge_id": "1-2", "user_id": "U", "zone_id": "Z", "reader_id": "R",'
    b' "event_timestamp": "2026-11-20T10:00:00.123456Z"}'
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with EmulatorProcess(tmp_path_factory.mktemp("emulator"), options=["--no-limits"]) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: EmulatorProcess) -> Iterator[EmulatorProcess]:
    yield running
    running.fault("clear")


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http(ca_file=None)
    yield http
    http.close()


@pytest.fixture
def channel(emulator: EmulatorProcess, http: Http, request: pytest.FixtureRequest) -> Channel:
    client = Client(
        http,
        snowflake_settings(emulator.url, role="LOADER"),
        load_key=lambda: load_private_key(emulator.private_key_file),
        wall_s=time.time,
        monotonic_s=boottime_s,
    )
    return Channel(client, PipeName(DATABASE, SCHEMA, PIPE), f"door-{request.node.name[:40]}")


def an_append(channel: Channel, token: str) -> Append:
    return Append(channel.compress([ROW]), token, token)


@pytest.mark.parametrize("old", [410, 401, 403, 404, 503, 0])
def test_after_a_failover_rows_go_to_the_new_host(
    channel: Channel, emulator: EmulatorProcess, old: int
) -> None:
    channel.open()
    emulator.fault("move", host="localhost", old=old)

    failures = 0
    while True:
        try:
            channel.open()
            channel.append(an_append(channel, "1-00"))
            break
        except SnowpipeError:
            failures += 1
            assert failures < 5

    wait_until(lambda: channel.status().committed_token == "1-00", what="a commit at the new host")
    assert failures <= 3


def test_an_open_that_discards_nothing_reports_what_is_in_flight(
    channel: Channel, emulator: EmulatorProcess
) -> None:
    channel.open()
    emulator.fault("stall_commits")
    channel.append(an_append(channel, "1-00"))

    with pytest.raises(TransientError) as caught:
        channel.open(fail_on_uncommitted_rows=True)
    emulator.fault("resume_commits")
    wait_until(lambda: channel.status().committed_token == "1-00", what="a commit")

    assert (caught.value.status, caught.value.code) == (409, UNCOMMITTED_DATA)
    assert channel.open(fail_on_uncommitted_rows=True).committed_token == "1-00"


def test_a_bodyless_404_is_no_lost_channel(channel: Channel, emulator: EmulatorProcess) -> None:
    channel.open()
    emulator.fault("status", on="append", status=404, body="empty", times=1)
    append = an_append(channel, "1-00")

    with pytest.raises(TransientError, match="404"):
        channel.append(append)
    channel.append(append)


def test_a_sequencer_is_a_lost_channel_with_any_status(channel: Channel, emulator: EmulatorProcess) -> None:
    channel.open()
    emulator.fault("status", on="append", status=400, code="ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER", times=1)

    with pytest.raises(ChannelLostError):
        channel.append(an_append(channel, "1-00"))


def test_every_exchange_has_a_fresh_token_and_may_lack_the_role(
    channel: Channel, emulator: EmulatorProcess
) -> None:
    emulator.fault("jwt_age", seconds=60)
    emulator.fault("refuse_role")

    assert channel.open().healthy


def test_rows_are_taken_as_gzip_too(channel: Channel, emulator: EmulatorProcess) -> None:
    channel.open()
    emulator.fault("status", on="append", status=415, body="html", times=1)
    append = an_append(channel, "1-00")

    with pytest.raises(TransientError):
        channel.append(append)
    channel.append(append)

    assert emulator.state()["seen"][-1]["content_encoding"] == "gzip"
    wait_until(lambda: channel.status().committed_token == "1-00", what="a commit")


def test_a_dropped_channel_is_gone(channel: Channel, emulator: EmulatorProcess) -> None:
    channel.open()
    channel.drop()

    assert channel.name not in [item["channel"] for item in emulator.state()["channels"]]


# --- anything ---------------------------------------------------------------------------------

_CALLS = int(os.environ.get("ANSWERS", "500"))


@pytest.mark.timeout(0)
def test_whatever_is_answered_the_client_returns_or_raises_its_own_error_within_limits(
    channel: Channel, emulator: EmulatorProcess
) -> None:
    seed = int(os.environ.get("ANSWERS_SEED", time.time_ns() % 2**32))
    for number, endpoint in enumerate(("hostname", "token", "open", "append", "status")):
        emulator.fault("anything", on=endpoint, seed=seed + number, share=0.8)
    figures = Figures()
    tracemalloc.start()

    for number in range(_CALLS):
        figures.add(partial(call, channel, number))

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    sys.stdout.write(f"ANSWERS_SEED={seed}: longest {figures.longest_s:.2f} s, peak {peak / 1e6:.1f} MB\n")
    assert set(figures.outcomes) >= {"TransientError", "OutcomeUnknownError", "ChannelLostError", "done"}
    assert "".join(figures.words).isprintable(), f"ANSWERS_SEED={seed}"
    assert not [words for words in figures.words if "12447170F7" in words], f"ANSWERS_SEED={seed}"
    assert peak < 25_000_000, f"ANSWERS_SEED={seed}"
    assert figures.longest_s < 20, f"ANSWERS_SEED={seed}"


def call(channel: Channel, number: int) -> None:
    """One request of a channel: opens, appends and polls in turn."""
    if not channel.is_open or number % 7 == 0:
        channel.open()
    elif number % 2:
        channel.append(an_append(channel, f"{number}-00"))
    else:
        channel.status()


@dataclass
class Figures:
    """How the calls ended, the words of their errors, and the longest time of one."""

    outcomes: Counter[str] = field(default_factory=Counter)
    words: set[str] = field(default_factory=set)
    longest_s: float = 0.0

    def add(self, made: Callable[[], None]) -> None:
        begun, outcome = time.monotonic(), "done"
        try:
            made()
        except SnowpipeError as error:
            outcome = type(error).__name__
            self.words.add(f"{error}{error.code}{error.hint}".replace("\n", ""))
        self.outcomes[outcome] += 1
        self.longest_s = max(self.longest_s, time.monotonic() - begun)
