"""What generated answers are made of: statuses, headers, bodies, false values, a card number among them."""

from __future__ import annotations

import gzip
import random

import orjson

Headers = tuple[tuple[str, str], ...]

CARD = "12447170F7"  # stands for a value of a row in the words of a server

# Frequent ones more than once.
STATUSES = (
    *(200, 200, 201, 202, 204, 206, 226, 299, 300, 301, 302, 303, 304, 305, 307, 308, 399),
    *(400, 400, 401, 401, 402, 403, 403, 404, 404, 405, 406, 407, 408, 409, 409, 410, 410, 411, 412),
    *(413, 413, 414, 415, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 429, 431, 444),
    *(451, 499, 500, 500, 501, 502, 503, 503, 504, 505, 506, 507, 508, 510, 511, 520, 521, 522, 525),
    *(530, 599, 100, 101, 102, 103, 199, 0, 99, 600, 777, 999),
)
_CODES = (
    *("ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER", "ERR_CHANNEL_HAS_INVALID_CLIENT_SEQUENCER"),
    *("ERR_CHANNEL_MUST_BE_REOPENED", "ERR_CHANNEL_MUST_BE_REOPENED_DUE_TO_ROW_SEQ_GAP", "STALE_PIPE_CACHE"),
    *("STALE_CONTINUATION_TOKEN_SEQUENCER", "ERR_CHANNEL_HAS_UNCOMMITTED_DATA", "ERR_PIPE_IN_INVALID_STATE"),
    *("ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", "ERR_TABLE_DOES_NOT_EXIST_NOT_AUTHORIZED"),
    *("ERR_GENERAL_EXCEPTION_RETRY_REQUEST", "ERR_OPEN_CHANNEL_IN_PROGRESS", "ERR_MALFORMED_REQUEST"),
    *("ERR_CHANNEL_LIMIT_EXCEEDED", "ERR_UNHEARD_OF", "invalid_scope", "invalid_grant"),
    *("390101", "390144", "390186", "390303", "390318", "390422", "390701", "390913", "391902", "394302"),
    *("395092", "4", "3", "0", "", "x" * 5_000, "ERR\nWATCHDOG_USEC=1", "\x1b[2J", "ERR\0"),
    *(CARD, f"ERR_{CARD}"),
)
MESSAGES = (
    *("no", f"Value '{CARD}' is not recognized", f"badge {CARD} [0ce9eb56-821d-4ca9-a774-04ae89a0cf5a]"),
    *("a\nb\x1b[2J", "", "\0", "\u202e\u2028", "x" * 20_000, "Numeric value '" + CARD),
)
_HTML = b"<!DOCTYPE html><html><body>Please log in to use this network</body></html>"

BOOKKEEPING = (
    *("created_on_ms", "rows_error_count", "rows_errors", "rows_inserted", "rows_parsed", "channel_name"),
    *("last_error_offset_upper_bound", "last_error_message", "last_error_timestamp", "pipe_name"),
)
MALFORMED: tuple[object, ...] = (
    *(None, "3", 3.5, True, -1, 2**63, [1], {"n": 1}, "a\nb", "x" * 400, CARD, "<surrogate>", "\0"),
)
COUNTS = (0, 1, 3, 2**62)
STATES = (
    *("SUCCESS", "ACTIVE", "ERR_CHANNEL_MUST_BE_REOPENED", "ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER"),
    *("ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", "STALE", "", "ERR\nWATCHDOG_USEC=1", CARD),
)
# Earlier ones, those of another history, and what is none.
OFFSET_TOKENS: tuple[object, ...] = (
    *(None, "", "1-" + "0" * 32, "7-" + "a" * 32, "999999-" + "f" * 32, "door", 7, ["1"], "x" * 5_000),
    *("<surrogate>", "1-\n", CARD),
)
CONTINUATION_TOKENS: tuple[object, ...] = ("", "0_0", "x" * 5_000, "<surrogate>", "a b\0", None, 7, CARD)
# In place of a host name or a scoped token, which are plain text.
FALSE_TEXTS = (
    *(b"", b"127.0.0.2", b"a..b", b"null", b"x" * 300, b"-host.example", b"\xff\xfe", b"127.0.0.1:99999"),
    *(b'{"hostname": "127.0.0.2", "token": "another"}', b'{"token": 7}', b'"quoted"'),
    b"eyJhbGciOiJIUzI1NiJ9.e30.e30",
    *(b"a\r\nX-Forged: 1", b"t" * 100_000, b"a b", _HTML),
)

HEADERS: tuple[Headers, ...] = (
    *((), (), ()),
    *((("Retry-After", value),) for value in ("0", "0.01", "-5", "soon", "9" * 40, "1e9", "\xb2")),
    (("Retry-After", "Wed, 21 Oct 2065 07:28:00 GMT"), ("Retry-After", "1")),
    *(
        (("Date", value),)
        for value in (
            *("Fri, 31 Dec 99999999999999 23:59:59 GMT", "yesterday", "Fri, 31 Dec 9999 23:59:59 GMT", ""),
            *("Thu, 01 Jan 1970 00:00:00 GMT", "Sat, 27 Nov 2027 99:99:99 GMT"),
            "Sat, 27 Nov 2027 10:00:00 +9999",
        )
    ),
    (("Date", "Sat, 27 Nov 2027 10:00:00 GMT"), ("Age", "7"), ("X-Cache", "HIT")),
    *((("Location", value),) for value in ("http://[::1", "https://127.0.0.1:9/login", "//", "javascript:1")),
    (("Set-Cookie", "a=b; Domain=.com"), ("WWW-Authenticate", 'Basic realm="' + CARD + '"')),
    (("X-Snowflake-Session", "\xe9"),),
    (("X-Snowflake-Session", "x" * 5_000),),
    (("X-Snowflake-Session", "a\tb"), ("X-Snowflake-Session", CARD)),
    (("X-Long", "x" * 70_000),),
    tuple((f"X-{number}", "1") for number in range(120)),
    (("X-Folded", "a\r\n b"), ("Upgrade", "h2c"), ("Connection", "Upgrade")),
    (("No colon follows\r\nX", "1"),),
    (("Connection", "close"),),
    (("Content-Encoding", "gzip"),),
    (("Content-Encoding", "gzip, zstd, br"),),
    (("Content-Encoding", "identity"),),
    (("Transfer-Encoding", "gzip"),),
    (("Transfer-Encoding", "chunked"), ("Content-Length", "2")),
    *((("Content-Length", value),) for value in ("7_0", "-5", "9" * 18, "9" * 400, "+2", "0x2", "two", "")),
    (("Content-Length", "0"), ("Content-Length", "2")),
)
CHUNKS = (
    *(b"xyz\r\n", b"-5\r\nabcde\r\n", b"ffffffffffff\r\n", b"0" * 70_000, b"2\r\n{}\r\n0\r\nX: 1"),
    *(b"", b"2\r\n{", b"2\r\n{}\r\n0\r\n\r\n", b"2;a=b\r\n{}\r\n0\r\n\r\n", b"2\n{}\n0\n\n"),
    *(b"1_0\r\n" + b"x" * 16, b"2\r\n{}XX0\r\n\r\n"),
    *(b"0\r\n" + b"X: 1\r\n" * 20_000 + b"\r\n", b"1\r\n{\r\n" * 3_000),
)

_PAGES = (
    *(b"", b"", _HTML, b"upstream connect error or disconnect/reset before headers"),
    *(b"null", b"[]", b"{}", b"7", b"true", b'""', b'{"status_code": 0', b'{"code": "ERR', b"{'code': 1}"),
    b'{"next_continuation_token": "\\ud800", "channel_statuses": {}}',
    b'{"next_continuation_token": null, "channel_status": null, "channel_statuses": null}',
    b'{"channel_statuses": {"a": null, "": [], "door": "x"}}',
    *(b"[" * 50_000, b'{"a":' * 50_000, b'{"code": "a", ' * 2_000, b'{"code": NaN, "message": Infinity}'),
    b'{"code": 1e999, "rows_error_count": ' + b"9" * 10_000 + b"}",
    *(b'{"code": "4", "code": "0"}', b'{"message": "a\\u0000b", "code": "\\u0000"}', b"\xef\xbb\xbf{}"),
    *(bytes(range(256)) * 4, b"\0" * 100),
    # Other services' answers.
    b'{"error": {"message": "Not Found", "type": "invalid_request_error"}}',
    b'{"__type": "ThrottlingException", "Message": "Rate exceeded"}',
    b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>',
    b'{"ok": false, "error": "invalid_auth"}',
    *(gzip.compress(_HTML, mtime=0), b"x" * 2_000_000),
)


def body(draw: random.Random) -> bytes:
    """A body, drawn: one of _PAGES, or an error with a code and a message in one of many forms."""
    if draw.random() < 0.5:  # noqa: PLR2004 - a coin
        return draw.choice(_PAGES)
    code, message = draw.choice(_CODES), draw.choice(MESSAGES)
    error = orjson.dumps({"code": code, "message": message})
    match draw.randrange(10):
        case 0:
            return orjson.dumps({"error_code": code, "message": message})
        case 1:
            number = int(code) if code.isdecimal() else 7
            return orjson.dumps({"status_code": number, "message": message})
        case 2:
            return orjson.dumps(code)
        case 3:
            return orjson.dumps(draw.choice((message, [code], {"code": [code]})))
        case 4:
            return orjson.dumps({"code": {"a": [code]}, "message": 7, "error_code": CARD})
        case 5:
            return error.decode("latin-1").encode("utf-16")
        case 6:
            return error[: len(error) // 2]
        case _:
            return error
