from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import (
    AuthError,
    ChannelLostError,
    RowsRefusedError,
    SnowpipeError,
    TooLargeError,
    TransientError,
)
from agent.snowpipe import wire
from agent.snowpipe.refusal import refusal
from agent.snowpipe.wire import PipeName, Reply

PIPE = PipeName("SNOWFLAKE_EXAMPLE", "RAW_INGESTION", "SFE_BADGE_EVENTS_PIPE")
APPEND = wire.append(PIPE, "door", wire.compress([b"{}"]), ("1-a", "2-b"), "token")
OPEN = wire.open_channel(PIPE, "door", None)
HOSTNAME = wire.hostname()
HTML = b"<html><body>card 12447170F7 is blocked</body></html>"
NAMES = {HOSTNAME.what: "hostname", OPEN.what: "open", APPEND.what: "append"}


def reply(content: object, status: int = 200, **headers: str) -> Reply:
    return Reply(status, headers, json.dumps(content).encode())


@pytest.mark.parametrize(
    ("request_", "status", "code", "kind"),
    [
        (APPEND, 401, "390318", AuthError),
        (OPEN, 403, "", AuthError),
        (APPEND, 400, "390144", AuthError),
        (HOSTNAME, 400, "394302", AuthError),
        (APPEND, 400, "STALE_CONTINUATION_TOKEN_SEQUENCER", ChannelLostError),
        (APPEND, 400, "ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER", ChannelLostError),
        (APPEND, 400, "ERR_CHANNEL_HAS_INVALID_CLIENT_SEQUENCER", ChannelLostError),
        (APPEND, 400, "ERR_CHANNEL_MUST_BE_REOPENED", ChannelLostError),
        (APPEND, 503, "ERR_CHANNEL_MUST_BE_REOPENED_DUE_TO_ROW_SEQ_GAP", ChannelLostError),
        (APPEND, 400, "STALE_PIPE_CACHE", ChannelLostError),
        (APPEND, 400, "ERR_MALFORMED_CONTINUATION_TOKEN", ChannelLostError),
        (APPEND, 400, "ERR_MALFORMED_ROW", RowsRefusedError),
        (APPEND, 422, "ERR_MALFORMED_ROW", RowsRefusedError),
        (OPEN, 400, "ERR_MALFORMED_REQUEST", TransientError),
        (OPEN, 400, "ERR_CHANNEL_LIMIT_EXCEEDED", TransientError),
        (APPEND, 413, "", TooLargeError),
        (OPEN, 413, "", TransientError),
        (APPEND, 404, "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED", ChannelLostError),
        (OPEN, 404, "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", ChannelLostError),
        (HOSTNAME, 404, "", TransientError),
        (APPEND, 409, "ERR_PIPE_IN_INVALID_STATE", ChannelLostError),
        (OPEN, 409, "ERR_OPEN_CHANNEL_IN_PROGRESS", TransientError),
        (OPEN, 409, "ERR_CHANNEL_HAS_UNCOMMITTED_DATA", TransientError),
        (APPEND, 408, "", TransientError),
        (APPEND, 410, "", ChannelLostError),
        (HOSTNAME, 410, "", ChannelLostError),
        (APPEND, 429, "390701", TransientError),
        (APPEND, 500, "ERR_GENERAL_EXCEPTION_RETRY_REQUEST", TransientError),
        (APPEND, 503, "", TransientError),
        (OPEN, 302, "", TransientError),
    ],
    ids=lambda value: NAMES.get(value.what) if isinstance(value, wire.Request) else None,
)
def test_a_refusal_is_sorted_by_code_first_and_status_second(
    request_: wire.Request, status: int, code: str, kind: type[SnowpipeError]
) -> None:
    error = refusal(request_, reply({"code": code, "message": "because"}, status))

    assert type(error) is kind
    assert (error.status, error.code, error.from_snowflake) == (status, code, True)
    assert str(error) == f"{request_.what}: {status} {code}".rstrip()


def test_a_stale_append_is_known_by_the_number_that_other_clients_saw() -> None:
    assert isinstance(refusal(APPEND, reply({"status_code": 4}, 400)), ChannelLostError)
    assert isinstance(refusal(APPEND, reply({"status_code": 3}, 400)), AuthError)


@pytest.mark.parametrize("body", [HTML, b"", b"{}", b"[1]", b"Request Entity Too Large"])
@pytest.mark.parametrize("status", [302, 400, 404, 405, 409, 415, 422, 451, 502, 511])
def test_what_a_device_in_between_answers_says_nothing_about_channel_or_rows(
    status: int, body: bytes
) -> None:
    error = refusal(APPEND, Reply(status, {}, body))

    assert type(error) is TransientError
    assert not error.from_snowflake


def test_a_device_in_between_may_have_a_smaller_limit() -> None:
    assert type(refusal(APPEND, Reply(413, {}, HTML))) is TooLargeError


@pytest.mark.parametrize(
    "body",
    [
        b'{"code": "ERR_X", "message": "no"}',
        b'{"error_code": "ERR_X", "message": "no"}',
        b'{"code": "ERR_X", "error_code": "ERR_X"}',
        b'"ERR_X"',
    ],
)
def test_the_code_of_an_error_is_found_in_every_form_of_body(body: bytes) -> None:
    assert refusal(APPEND, Reply(400, {}, body)).code == "ERR_X"


def test_a_numeric_code_is_text() -> None:
    assert refusal(APPEND, reply({"status_code": 390318}, 401)).code == "390318"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("0", 0.0),
        ("999999", 86_400.0),
        ("-1", None),
        ("soon", None),
        ("Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("1e3", None),
        ("\u0667", None),
    ],
)
def test_retry_after_is_taken_in_seconds_alone(header: str, seconds: float | None) -> None:
    assert refusal(APPEND, Reply(429, {"retry-after": header}, b"")).retry_after == seconds


# --- words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"code": "390144"}, "is the key registered"),
        (401, {"code": "390101"}, "disabled or locked"),
        (403, {"code": "390422"}, "network policy"),
        (403, {"code": "390186"}, "GRANT ROLE <role> TO USER"),
        (403, {"code": "390913"}, "LOGIN_HISTORY_BY_USER"),
        (401, {"code": "395092"}, "[snowflake] role"),
        (429, {"code": "390701"}, "rate limit"),
        (401, {"code": "394300"}, "LOGIN_NAME"),
        (401, {"code": "394302"}, "set-ntp true"),
        (401, {"code": "394307"}, "CURRENT_ACCOUNT_NAME"),
        (409, {"code": "ERR_PIPE_IN_INVALID_STATE"}, "DESC PIPE"),
        (403, {"code": "390999"}, "SHOW GRANTS"),
        (403, None, "a 403 without a reason"),
        (404, None, "no route to the pipe yet"),
        (307, None, "redirect is not followed"),
        (503, HTML, "captive portal"),
        (410, None, "moved to another host"),
    ],
)
def test_the_hint_belongs_to_the_code(status: int, body: object, words: str) -> None:
    content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()

    assert words in refusal(APPEND, Reply(status, {}, content)).hint


def test_a_refused_sign_in_names_where_its_details_are() -> None:
    message = "JWT token is invalid. [0CE9EB56-821D-4CA9-A774-04AE89A0CF5A]"

    hint = refusal(HOSTNAME, reply({"code": "390144", "message": message}, 401)).hint

    assert "SYSTEM$GET_LOGIN_FAILURE_DETAILS('0ce9eb56-821d-4ca9-a774-04ae89a0cf5a')" in hint


CARD = "12447170F7"
ANY_TEXT = st.text(max_size=10) | st.sampled_from([CARD, f"Value '{CARD}' is bad", "\x1b[2J", "\nWATCHDOG=1"])
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["code", "error_code", "status_code", "message"]), inner)
    ),
    max_leaves=8,
)
ANY_BODY = st.binary(max_size=60) | ANY_JSON.map(lambda value: json.dumps(value).encode())


@given(ANY_BODY, st.integers(100, 999), st.sampled_from([APPEND, OPEN, HOSTNAME]))
def test_every_refusal_is_sorted_whatever_its_body_and_repeats_no_text_of_it(
    body: bytes, status: int, request_: wire.Request
) -> None:
    error = refusal(request_, Reply(status, {}, body))

    assert error.status == status
    assert str(error).startswith(f"{request_.what}: {status}")
    assert f"{error}{error.code}".isprintable()
    assert CARD not in f"{error}{error.code}{error.hint}"
    assert len(str(error)) < 300


def test_an_answer_nested_a_hundred_thousand_deep_is_no_crash() -> None:
    assert isinstance(refusal(APPEND, Reply(500, {}, b"[" * 100_000)), TransientError)


def test_the_proxy_is_named() -> None:
    error = refusal(APPEND, Reply(503, {}, HTML), " through the proxy http://proxy:3128")

    assert str(error).startswith("append rows through the proxy http://proxy:3128: 503")
