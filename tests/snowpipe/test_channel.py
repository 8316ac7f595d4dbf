from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import AgentError, ChannelLostError, OutcomeUnknownError, RowsRefusedError, TransientError
from agent.keys.keypair import load_private_key
from agent.snowpipe import wire
from agent.snowpipe.channel import Append, Channel
from agent.snowpipe.client import Client
from agent.snowpipe.http import Http
from agent.snowpipe.refusal import UNCOMMITTED_DATA
from tests.support.pipe_model import snowflake_settings
from tests.support.scripted_server import Answer, HangUp, Scripted, ScriptedServer, Seen, in_turn
from tests.support.swipes import DrivenClock

PIPE = wire.PipeName("DB", "SCHEMA", "PIPE")


def answer(**content: object) -> Answer:
    return Answer(body=json.dumps(content).encode())


def channel_status(code: str = "SUCCESS", committed: str | None = None) -> dict[str, object]:
    return {"channel_status_code": code, "last_committed_offset_token": committed, "rows_error_count": 0}


def opened(continuation: str = "0_1", code: str = "SUCCESS", committed: str | None = None) -> Answer:
    return answer(next_continuation_token=continuation, channel_status=channel_status(code, committed))


def an_append() -> Append:
    return Append(wire.compress([b'{"seq":1}', b'{"seq":2}']), "1-aa", "2-bb")


@contextmanager
def door(rsa_key_file: Path, *answers: Scripted) -> Iterator[tuple[Channel, list[Seen]]]:
    """A channel to a server with these answers, and the requests that reached it after signing in."""
    script = in_turn(*answers)
    seen: list[Seen] = []

    def respond(request: Seen) -> Scripted:
        if "hostname" in request.path:
            return Answer(body=b"127.0.0.1")
        if "/oauth/" in request.path:
            return Answer(body=b"scoped")
        seen.append(request)
        return script(request)

    with ScriptedServer(respond) as server:
        clock, http = DrivenClock(), Http(ca_file=None)
        client = Client(
            http,
            snowflake_settings(server.url),
            load_key=lambda: load_private_key(rsa_key_file),
            wall_s=clock.wall_s,
            monotonic_s=clock.monotonic_s,
        )
        try:
            yield Channel(client, PIPE, "door"), seen
        finally:
            http.close()


def test_an_opened_channel_tells_how_far_it_has_committed(rsa_key_file: Path) -> None:
    with door(rsa_key_file, opened(committed="5-ab")) as (channel, _):
        status = channel.open()

        assert channel.is_open
        assert status.committed_token == "5-ab"


def test_each_append_carries_the_token_that_the_answer_before_it_gave(rsa_key_file: Path) -> None:
    answers = [opened("0_1"), answer(next_continuation_token="0_2"), answer(next_continuation_token="0_3")]

    with door(rsa_key_file, *answers) as (channel, seen):
        channel.open()
        channel.append(an_append())
        channel.append(an_append())

    assert [request.query["continuationToken"] for request in seen[1:]] == ["0_1", "0_2"]
    assert seen[1].query["startOffsetToken"] == "1-aa"
    assert seen[1].query["endOffsetToken"] == "2-bb"


def test_a_retried_append_is_the_same_request_again(rsa_key_file: Path) -> None:
    append = an_append()

    with door(rsa_key_file, opened(), Answer(503), answer(next_continuation_token="0_2")) as (channel, seen):
        channel.open()
        with pytest.raises(TransientError):
            channel.append(append)
        append.tries.count += 1
        channel.append(append)

    first, second = seen[1:]
    assert first.body == second.body
    assert {**first.query, "retryCount": "1"} == second.query


def test_two_appends_are_two_requests_whatever_they_carry(rsa_key_file: Path) -> None:
    answers = [opened()] + [answer(next_continuation_token="0_2")] * 2

    with door(rsa_key_file, *answers) as (channel, seen):
        channel.open()
        channel.append(an_append())
        channel.append(an_append())

    assert seen[1].query["requestId"] != seen[2].query["requestId"]


def test_nothing_is_appended_to_a_channel_that_is_not_open(rsa_key_file: Path) -> None:
    with door(rsa_key_file) as (channel, seen), pytest.raises(ChannelLostError, match="door is not open"):
        channel.append(an_append())

    assert seen == []


def test_a_forgotten_position_has_to_be_opened_again(rsa_key_file: Path) -> None:
    with door(rsa_key_file, opened("0_1"), opened("1_1")) as (channel, _):
        channel.open()
        channel.forget()

        assert not channel.is_open
        channel.open()
        assert channel.is_open


def test_a_deleted_channels_position_can_be_set_again(rsa_key_file: Path) -> None:
    with door(rsa_key_file, opened(committed="5-ab")) as (channel, seen):
        channel.open(offset_token="5-ab")

    assert json.loads(seen[0].body) == {"offset_token": "5-ab"}


def test_a_channel_that_answers_but_is_not_well_is_not_open(rsa_key_file: Path) -> None:
    with door(rsa_key_file, opened(code="ERR_PIPE_IN_INVALID_STATE")) as (channel, _):
        with pytest.raises(ChannelLostError, match="ERR_PIPE_IN_INVALID_STATE"):
            channel.open()

        assert not channel.is_open


def test_a_failed_reopen_leaves_no_old_position_behind(rsa_key_file: Path) -> None:
    with door(rsa_key_file, opened(), Answer(503)) as (channel, _):
        channel.open()
        with pytest.raises(TransientError):
            channel.open()

        assert not channel.is_open


def test_a_status_tells_what_is_committed(rsa_key_file: Path) -> None:
    statuses = answer(channel_statuses={"door": channel_status(committed="7-cd")})

    with door(rsa_key_file, statuses) as (channel, _):
        assert channel.status().committed_token == "7-cd"


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (answer(channel_statuses={"door": channel_status("ERR_CHANNEL_MUST_BE_REOPENED")}), ChannelLostError),
        (answer(channel_statuses={}), ChannelLostError),
        (Answer(body=b"<html>please log in</html>"), OutcomeUnknownError),
        (HangUp(), OutcomeUnknownError),
        (Answer(429), TransientError),
    ],
)
def test_a_status_that_tells_no_good_is_raised_by_what_to_do_next(
    rsa_key_file: Path, reply: Scripted, kind: type[AgentError]
) -> None:
    with door(rsa_key_file, reply) as (channel, _), pytest.raises(kind):
        channel.status()


def test_an_open_may_be_told_to_discard_nothing(rsa_key_file: Path) -> None:
    uncommitted = Answer(409, b'{"code": "ERR_CHANNEL_HAS_UNCOMMITTED_DATA"}')

    with door(rsa_key_file, uncommitted) as (channel, seen), pytest.raises(TransientError) as caught:
        channel.open(fail_on_uncommitted_rows=True)

    assert caught.value.code == UNCOMMITTED_DATA
    assert json.loads(seen[0].body) == {"fail_on_uncommitted_rows": True}


@pytest.mark.parametrize(
    "refusal",
    [Answer(409, b'{"code": "ERR_CHANNEL_HAS_UNCOMMITTED_DATA"}'), Answer(503), Answer(429)],
    ids=["uncommitted rows", "unavailable", "too many requests"],
)
def test_an_open_that_discards_nothing_and_fails_leaves_an_open_channel_open(
    rsa_key_file: Path, refusal: Answer
) -> None:
    with door(rsa_key_file, opened("0_1"), refusal, answer(next_continuation_token="0_2")) as (channel, seen):
        channel.open()
        with pytest.raises(TransientError):
            channel.open(fail_on_uncommitted_rows=True)
        channel.append(an_append())

    assert seen[2].query["continuationToken"] == "0_1"


def test_a_status_is_asked_for_by_the_name_that_the_open_returned(rsa_key_file: Path) -> None:
    status = channel_status() | {"channel_name": "DOOR"}
    answers = [
        answer(next_continuation_token="0_1", channel_status=status),
        answer(channel_statuses={"DOOR": channel_status(committed="7-cd")}),
    ]

    with door(rsa_key_file, *answers) as (channel, seen):
        channel.open()
        assert channel.status().committed_token == "7-cd"

    assert json.loads(seen[1].body) == {"channel_names": ["DOOR"]}


def test_another_name_than_ours_is_not_taken_from_an_open(rsa_key_file: Path) -> None:
    """It would be asked for, and shown."""
    status = channel_status() | {"channel_name": "12447170F7"}
    answers = [
        answer(next_continuation_token="0_1", channel_status=status),
        answer(channel_statuses={"door": channel_status()}),
    ]

    with door(rsa_key_file, *answers) as (channel, seen):
        channel.open()
        channel.status()

    assert json.loads(seen[1].body) == {"channel_names": ["door"]}


def test_a_dropped_channel_is_deleted(rsa_key_file: Path) -> None:
    with door(rsa_key_file, opened(), Answer(200, b"")) as (channel, seen):
        channel.open()
        channel.drop()

        assert not channel.is_open
    assert (seen[1].method, seen[1].path) == ("DELETE", seen[0].path)


def test_the_session_of_an_answer_is_sent_back_with_the_next_append(rsa_key_file: Path) -> None:
    appended = answer(next_continuation_token="0_2")
    with_session = Answer(appended.status, appended.body, {"X-Snowflake-Session": "abc"})

    with door(rsa_key_file, opened(), with_session, appended, appended) as (channel, seen):
        channel.open()
        for _ in range(3):
            channel.append(an_append())

    sessions = [request.headers.get("x-snowflake-session") for request in seen[1:]]
    assert sessions == [None, "abc", None]


@pytest.mark.parametrize(
    "refusal", [Answer(415), Answer(400, b"<html>"), Answer(415, b'{"code": "ERR_ENC"}')]
)
def test_where_zstd_is_refused_rows_go_as_gzip_from_then_on(rsa_key_file: Path, refusal: Answer) -> None:
    append, appended = an_append(), answer(next_continuation_token="0_2")

    with door(rsa_key_file, opened(), refusal, appended, appended) as (channel, seen):
        channel.open()
        with pytest.raises(TransientError):
            channel.append(append)
        channel.append(append)
        channel.append(Append(channel.compress([b"{}"]), "3-cc", "3-cc"))

    first, second, third = seen[1:]
    assert [request.headers["content-encoding"] for request in seen[1:]] == ["zstd", "gzip", "gzip"]
    assert gzip.decompress(second.body) == b'{"seq":1}\n{"seq":2}\n'
    assert gzip.decompress(third.body) == b"{}\n"
    assert first.query["requestId"] != second.query["requestId"]
    assert second.query["continuationToken"] == first.query["continuationToken"]


def test_a_refusal_of_the_rows_leaves_the_compression_as_it_is(rsa_key_file: Path) -> None:
    refused = Answer(400, b'{"code": "ERR_MALFORMED_ROW"}')

    with door(rsa_key_file, opened(), refused, refused) as (channel, seen):
        channel.open()
        for _ in range(2):
            with pytest.raises(RowsRefusedError):
                channel.append(an_append())

    assert [request.headers["content-encoding"] for request in seen[1:]] == ["zstd", "zstd"]
