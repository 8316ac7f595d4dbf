from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path

import jwt
import pytest

from agent.keys.keypair import KeyPair, load_private_key
from agent.snowpipe import wire
from agent.snowpipe.client import Client, RequestAttempt
from agent.snowpipe.http import Http
from agent.snowpipe.server_clock import ServerClock, date_of
from tests.support.pipe_model import snowflake_settings
from tests.support.scripted_server import Answer, ScriptedServer, Seen

NOON_S = 1_772_366_400.0  # 2026-03-01T12:00:00Z
STATUS = wire.channel_status(wire.PipeName("DB", "SCHEMA", "PIPE"), "door")


class Clocks:
    """This machine's, off by so much."""

    def __init__(self, ahead_s: float = 0.0) -> None:
        self.ahead_s = ahead_s
        self.seconds = 1_000.0

    def boot_s(self) -> float:
        return self.seconds

    def wall_s(self) -> float:
        return NOON_S + self.seconds + self.ahead_s


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(int(seconds), UTC), usegmt=True)


def heard(clocks: Clocks, *, way_s: float = 0.2) -> ServerClock:
    server_clock = ServerClock(clocks.wall_s, clocks.boot_s)
    answer(server_clock, clocks, way_s=way_s)
    return server_clock


def answer(server_clock: ServerClock, clocks: Clocks, *, way_s: float = 0.2) -> None:
    asked_s = clocks.seconds
    clocks.seconds += way_s
    server_clock.observe({"date": http_date(NOON_S + clocks.seconds - way_s / 2)}, asked_s)


@pytest.mark.parametrize("way_s", [0.01, 0.4, 9.0])
def test_the_servers_time_is_known_as_well_as_the_answer_was_quick(way_s: float) -> None:
    clocks = Clocks()

    told = heard(clocks, way_s=way_s).last

    assert told is not None
    assert abs(told.offset_s - NOON_S) <= told.error_s
    assert told.error_s == pytest.approx(1.5 + way_s / 2)


@pytest.mark.parametrize(
    ("ahead_s", "signs_with"), [(0, 0), (3, 3), (-3, -3), (8, 0), (-90, 0), (-11_520, 0)]
)
def test_only_a_clock_that_is_off_by_more_than_five_seconds_gives_way(
    ahead_s: float, signs_with: float
) -> None:
    clocks = Clocks(ahead_s)
    server_clock = heard(clocks)

    off_s = server_clock.now_s() - (NOON_S + clocks.seconds)

    assert off_s == pytest.approx(signs_with, abs=1.5)
    assert server_clock.ahead_s() == pytest.approx(ahead_s, abs=1.5)


def test_when_ntp_sets_the_clock_later_what_was_heard_does_not_make_it_wrong() -> None:
    clocks = Clocks(ahead_s=-11_520)
    server_clock = heard(clocks)
    clocks.seconds += 5_000
    clocks.ahead_s = 0

    assert server_clock.now_s() == clocks.wall_s()


def test_a_wrong_clock_is_told_once_and_that_it_is_right_again_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    clocks = Clocks(ahead_s=-11_520)
    server_clock = heard(clocks)
    answer(server_clock, clocks)
    clocks.ahead_s = 0
    answer(server_clock, clocks)
    answer(server_clock, clocks)

    first, second = (record.getMessage() for record in caplog.records)

    assert "it is 3 h 12 min behind" in first
    assert "agrees with Snowflake's again" in second


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"date": "yesterday"},
        {"date": http_date(0), "age": "3600"},
        {"date": http_date(0)},
        {"date": "Fri, 31 Dec 9999 23:59:59 GMT"},
        {"date": "Fri, 31 Dec 99999999999999999999 23:59:59 GMT"},
        {"date": "Sun, 01 Mar 2026 12:00:00 +99999999"},
        {"date": "Sun, 99 Mar 2026 99:00:00 GMT"},
    ],
)
def test_an_answer_that_does_not_tell_the_time_changes_nothing(headers: dict[str, str]) -> None:
    clocks = Clocks(ahead_s=-11_520)
    server_clock = ServerClock(clocks.wall_s, clocks.boot_s)

    server_clock.observe(headers, clocks.seconds)

    assert server_clock.last is None
    assert server_clock.ahead_s() is None
    assert server_clock.now_s() == clocks.wall_s()


def test_a_date_without_a_zone_is_in_gmt() -> None:
    assert date_of({"date": "Sun, 01 Mar 2026 12:00:00"}) == datetime(2026, 3, 1, 12, tzinfo=UTC)


# --- tokens ---------------------------------------------------------------------------------


@pytest.fixture
def key(rsa_key_file: Path) -> KeyPair:
    return load_private_key(rsa_key_file)


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http(ca_file=None)
    yield http
    http.close()


def _refuses_tokens_from_another_time(seen: Seen) -> Answer:
    """As Snowflake does, by its own clock."""
    if seen.path.endswith("/hostname"):
        claims = jwt.decode(
            seen.headers["authorization"].removeprefix("Bearer "), options={"verify_signature": False}
        )
        now_s = datetime.now(UTC).timestamp()
        is_good = claims["iat"] - 600 <= now_s < claims["exp"]
        return Answer(200, b"127.0.0.1") if is_good else Answer(401, b'{"code": "390144"}')
    return Answer(200, b"scoped" if seen.path == "/oauth/token" else b"{}")


@pytest.mark.parametrize("wall_s", [lambda: 60.0, lambda: datetime.now(UTC).timestamp() + 7_200])
def test_a_machine_with_a_wrong_clock_signs_in_all_the_same(
    http: Http, key: KeyPair, wall_s: Callable[[], float]
) -> None:
    with ScriptedServer(_refuses_tokens_from_another_time) as server:
        client = Client(
            http,
            snowflake_settings(server.url),
            load_key=lambda: key,
            wall_s=wall_s,
            monotonic_s=Clocks().boot_s,
        )

        reply = client.call(STATUS, RequestAttempt())

    assert reply.status == 200
    assert client.jwt.expires_at == pytest.approx(datetime.now(UTC).timestamp() + 59 * 60, abs=60)


@pytest.mark.parametrize("lie_s", [7_200, -7_200])
def test_a_date_of_a_middlebox_does_not_overrule_a_synchronised_clock(
    http: Http, key: KeyPair, lie_s: float
) -> None:
    clocks = Clocks()
    refusals: list[str] = []

    def through_a_middlebox(seen: Seen) -> Answer:
        answer = _refuses_tokens_from_another_time(seen)
        refusals.extend([seen.path] * (answer.status == 401))
        date = http_date(datetime.now(UTC).timestamp() + lie_s)
        return Answer(answer.status, answer.body, {"Date": date})

    with ScriptedServer(through_a_middlebox) as server:
        client = Client(
            http,
            snowflake_settings(server.url),
            load_key=lambda: key,
            wall_s=lambda: datetime.now(UTC).timestamp() + clocks.seconds - 1_000,
            monotonic_s=clocks.boot_s,
            is_synchronised=lambda: True,
        )
        for _ in range(3):
            client.call(STATUS)
            clocks.seconds += 100  # a little more than the age up to which the host is not asked for
            client.reload_key()

    assert len(refusals) == 1
    assert client.server_clock.last is None  # nothing else may rely on that date
    assert client.server_clock.ahead_s() is None


def test_without_synchronisation_the_servers_date_stays_in_use() -> None:
    clocks = Clocks(ahead_s=7_200)
    server_clock = ServerClock(clocks.wall_s, clocks.boot_s, lambda: False)
    answer(server_clock, clocks)

    server_clock.now_s()

    assert not server_clock.refused()
    assert server_clock.now_s() == pytest.approx(NOON_S + clocks.seconds, abs=1.5)


def test_between_two_clocks_the_refused_one_gives_way_to_the_other() -> None:
    clocks = Clocks(ahead_s=7_200)
    server_clock = ServerClock(clocks.wall_s, clocks.boot_s, lambda: True)
    answer(server_clock, clocks)
    times = []

    for _ in range(3):
        times.append(round((server_clock.now_s() - NOON_S - clocks.seconds) / 7_200))
        assert server_clock.refused()

    assert times == [0, 1, 0]
