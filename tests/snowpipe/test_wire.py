from __future__ import annotations

import gzip
import json
from typing import Any
from urllib.parse import parse_qs

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import (
    ChannelLostError,
    OutcomeUnknownError,
    SnowpipeError,
)
from agent.snowpipe import wire
from agent.snowpipe.wire import PipeName, Reply

PIPE = PipeName("SNOWFLAKE_EXAMPLE", "RAW_INGESTION", "SFE_BADGE_EVENTS_PIPE")
PIPE_PATH = "/databases/SNOWFLAKE_EXAMPLE/schemas/RAW_INGESTION/pipes/SFE_BADGE_EVENTS_PIPE"
APPEND = wire.append(PIPE, "door", wire.compress([b"{}"]), ("1-a", "2-b"), "token")
STATUS = {
    "database_name": "SNOWFLAKE_EXAMPLE",
    "channel_name": "door",
    "channel_status_code": "SUCCESS",
    "last_committed_offset_token": "5-00112233aabbccdd",
    "rows_error_count": 3,
    "last_error_offset_upper_bound": "4-00",
    "last_error_message": "a row did not fit",
}


def reply(content: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, headers, json.dumps(content).encode())


def text(content: str) -> Reply:
    return Reply(200, {}, content.encode())


# --- requests -------------------------------------------------------------------------------


def test_names_are_percent_encoded_in_paths() -> None:
    pipe = PipeName("A/B", "C D", "E?F")

    request = wire.open_channel(pipe, "door 1/x", None)

    quoted = "/v2/streaming/databases/%22A%2FB%22/schemas/%22C%20D%22/pipes/%22E%3FF%22"
    assert request.path == f"{quoted}/channels/door%201%2Fx"


def test_names_are_in_quotes_only_where_sql_needs_them() -> None:
    assert PipeName("My_Db", "_S$1", 'a"b').path == "/databases/My_Db/schemas/_S%241/pipes/%22a%22%22b%22"


def test_an_open_sets_a_position_only_where_one_is_given() -> None:
    plain, positioned = (wire.open_channel(PIPE, "door", token) for token in (None, "5-ab"))

    assert (plain.method, plain.path) == ("PUT", f"/v2/streaming{PIPE_PATH}/channels/door")
    assert json.loads(plain.body) == {}
    careful = wire.open_channel(PIPE, "door", None, fail_on_uncommitted_rows=True)
    assert json.loads(careful.body) == {"fail_on_uncommitted_rows": True}
    assert json.loads(positioned.body) == {"offset_token": "5-ab"}


def test_an_append_names_its_rows_and_its_place() -> None:
    assert (APPEND.method, APPEND.path) == ("POST", f"/v2/streaming/data{PIPE_PATH}/channels/door/rows")
    assert dict(APPEND.query) == {
        "startOffsetToken": "1-a",
        "endOffsetToken": "2-b",
        "continuationToken": "token",
    }
    assert APPEND.headers["Content-Type"] == "application/x-ndjson"
    assert APPEND.headers["Content-Encoding"] == "zstd"
    assert APPEND.headers["X-Snowflake-Uncompressed-Content-Length"] == "3"


def test_a_status_is_asked_for_by_the_channels_exact_name() -> None:
    request = wire.channel_status(PIPE, "Door-1")

    assert (request.method, request.path) == ("POST", f"/v2/streaming{PIPE_PATH}:bulk-channel-status")
    assert json.loads(request.body) == {"channel_names": ["Door-1"]}


@pytest.mark.parametrize(
    ("role", "scope"),
    [
        (None, "ingest.example"),
        ("LOADER", "ingest.example session:role:LOADER"),
        ("loader", "ingest.example session:role:LOADER"),
        ("my-loader", "ingest.example session:role:my-loader"),
    ],
)
def test_a_scoped_token_is_asked_for_one_host_and_perhaps_a_role(role: str | None, scope: str) -> None:
    form = parse_qs(wire.scoped_token("ingest.example", role).body.decode())

    assert form == {"grant_type": ["urn:ietf:params:oauth:grant-type:jwt-bearer"], "scope": [scope]}


@given(st.lists(st.binary().filter(lambda row: b"\n" not in row), min_size=1))
def test_rows_come_out_of_the_wire_form_as_they_went_in(rows: list[bytes]) -> None:
    body = wire.compress(rows)
    as_gzip = wire.recompressed(body, "gzip")

    plain = zstandard.ZstdDecompressor().decompress(body.data)
    assert gzip.decompress(as_gzip.data) == plain
    assert wire.recompressed(as_gzip, "zstd") == body
    assert plain == b"".join(row + b"\n" for row in rows)
    assert body.plain_bytes == len(plain)


def test_no_request_shows_its_rows_when_printed() -> None:
    body = wire.compress([b'{"card_raw":"02F657AE"}'])

    assert "02F657AE" not in repr(body)
    assert repr(body.data) not in repr(wire.append(PIPE, "door", body, ("1-a", "2-b"), "token"))


# --- replies --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "host"),
    [
        ("abc.snowflakecomputing.com", "abc.snowflakecomputing.com"),
        ("abc.snowflakecomputing.com\n", "abc.snowflakecomputing.com"),
        ('"abc.example"', "abc.example"),
        ('{"hostname": "abc.example"}', "abc.example"),
        ("MY_ORG-My_Acc.example", "MY-ORG-My-Acc.example"),
        ("127.0.0.1:8085", "127.0.0.1:8085"),
    ],
)
def test_the_ingest_host_is_taken_in_every_form_it_is_told_in(answer: str, host: str) -> None:
    assert wire.parse_hostname(text(answer)) == host


@pytest.mark.parametrize(
    "answer",
    [
        "<html>login</html>",
        "",
        "{}",
        '{"hostname": 1}',
        "a/b",
        "user@host",
        "a b",
        "ü",
        "a..b",
        "-a",
        "a:0",
        "a:65536",
        "x" * 64,
    ],
)
def test_what_is_no_host_is_not_taken_for_one(answer: str) -> None:
    with pytest.raises(OutcomeUnknownError, match="not Snowflake's"):
        wire.parse_hostname(text(answer))


@pytest.mark.parametrize(
    "answer", ["abc.def.ghi", "abc.def.ghi\n", '"abc.def.ghi"', '{"token": "abc.def.ghi"}']
)
def test_a_scoped_token_is_taken_as_text_and_as_json(answer: str) -> None:
    assert wire.parse_scoped_token(text(answer)) == "abc.def.ghi"


@pytest.mark.parametrize("answer", ["", "two words", "{}", "a\nb", "tökèn", '{"token": null}', "x" * 9_000])
def test_what_is_no_token_is_not_taken_for_one(answer: str) -> None:
    with pytest.raises(OutcomeUnknownError):
        wire.parse_scoped_token(text(answer))


def test_an_opened_channel_tells_its_first_token_and_where_it_stands() -> None:
    opened = wire.parse_opened(reply({"next_continuation_token": "0_1", "channel_status": STATUS}))

    assert opened.continuation_token == "0_1"
    assert opened.status.healthy
    assert opened.status.committed_token == "5-00112233aabbccdd"
    assert opened.status.rows_error_count == 3


@pytest.mark.parametrize(
    "change", [{"rows_errors": 3, "rows_error_count": 3}, {"channel_status_code": "ACTIVE"}]
)
def test_both_spellings_of_the_documentation_are_understood(change: dict[str, Any]) -> None:
    status = wire.parse_channel_status(reply({"channel_statuses": {"door": STATUS | change}}), "door")

    assert status.healthy
    assert status.rows_error_count == 3


def test_errors_are_counted_also_under_their_other_name() -> None:
    old = {name: value for name, value in STATUS.items() if name != "rows_error_count"} | {"rows_errors": 4}

    assert wire.parse_channel_status(reply({"channel_statuses": {"door": old}}), "door").rows_error_count == 4


def test_a_new_channel_has_committed_nothing() -> None:
    status = STATUS | {"last_committed_offset_token": None}

    assert (
        wire.parse_channel_status(reply({"channel_statuses": {"door": status}}), "door").committed_token
        is None
    )


@pytest.mark.parametrize("code", ["ERR_CHANNEL_MUST_BE_REOPENED", "", "success"])
def test_any_other_state_of_a_channel_is_unhealthy(code: str) -> None:
    status = wire.parse_channel_status(
        reply({"channel_statuses": {"door": STATUS | {"channel_status_code": code}}}), "door"
    )

    assert not status.healthy


def test_a_channel_that_the_server_does_not_name_is_lost() -> None:
    with pytest.raises(ChannelLostError, match="no longer knows the channel door"):
        wire.parse_channel_status(reply({"channel_statuses": {"door-2": STATUS}}), "door")


def test_the_case_of_a_name_does_not_count_but_its_own_spelling_comes_first() -> None:
    other = STATUS | {"rows_error_count": 9}

    found = wire.parse_channel_status(reply({"channel_statuses": {"DOOR": other, "door": STATUS}}), "door")

    assert found.rows_error_count == 3
    assert wire.parse_channel_status(reply({"channel_statuses": {"DOOR": other}}), "door") is not None


def test_an_append_is_answered_with_the_next_token() -> None:
    assert wire.parse_appended(reply({"next_continuation_token": "0_2", "status_code": 0})) == "0_2"


def test_a_failure_inside_a_200_is_a_failure() -> None:
    with pytest.raises(ChannelLostError, match=r"status 4 in a 200$"):
        wire.parse_appended(reply({"status_code": 4, "message": "stale", "next_continuation_token": "0_2"}))


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["hostname", "token", "channel_status", "channel_statuses", "door", *STATUS]),
            inner,
        )
    ),
    max_leaves=8,
)
ANY_BODY = st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode())


@given(ANY_BODY)
def test_no_answer_however_wrong_becomes_anything_but_an_error_of_ours(body: bytes) -> None:
    answer = Reply(200, {}, body)

    for parse in (wire.parse_opened, wire.parse_appended, lambda r: wire.parse_channel_status(r, "door")):
        with pytest.raises(SnowpipeError):
            parse(answer)


def test_an_answer_nested_a_hundred_thousand_deep_is_no_crash() -> None:
    with pytest.raises(OutcomeUnknownError):
        wire.parse_appended(Reply(200, {}, b"[" * 100_000))


# --- bookkeeping that is malformed ------------------------------------------------------------


def status_of(**changes: object) -> wire.ChannelStatus:
    return wire.parse_channel_status(reply({"channel_statuses": {"door": STATUS | changes}}), "door")


@pytest.mark.parametrize("odd", [None, "3", 3.5, True, -1, 2**63, 10**400, [3], {"n": 3}])
def test_a_malformed_count_is_unknown_and_no_error(odd: object) -> None:
    status = status_of(rows_error_count=odd, created_on_ms=odd)

    assert (status.rows_error_count, status.created_on_ms) == (None, None)
    assert status.healthy


@pytest.mark.parametrize("odd", [None, 5, "", "\ud800", "a\nb", "x" * 300, ["5-ab"]])
def test_a_malformed_bound_is_unknown_and_no_error(odd: object) -> None:
    assert status_of(last_error_offset_upper_bound=odd).last_error_upper_bound is None


@pytest.mark.parametrize("odd", [5, "\ud800", "5-ab\nWATCHDOG_USEC=1", "\x1b[2J", ["5-ab"]])
def test_a_malformed_committed_token_is_no_position(odd: object) -> None:
    with pytest.raises(OutcomeUnknownError, match="not Snowflake's"):
        status_of(last_committed_offset_token=odd)


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_token_means_that_nothing_is_committed(empty: str | None) -> None:
    assert status_of(last_committed_offset_token=empty).committed_token is None


@pytest.mark.parametrize("token", ["\ud800", "x" * 5_000, 5, None])
def test_a_continuation_token_that_cannot_be_sent_back_is_not_taken(token: object) -> None:
    with pytest.raises(OutcomeUnknownError):
        wire.parse_appended(reply({"next_continuation_token": token}))


def test_the_state_of_a_channel_forges_no_line_of_a_log() -> None:
    code = status_of(channel_status_code="ERR\nWATCHDOG_USEC=1").code

    assert code == ""
