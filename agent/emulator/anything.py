"""Answers of every kind that a server, a proxy or a network may give, from a seeded generator; pure.

An answer is drawn from status x body x headers x timing. None of them is false: no generated answer has a
continuation token, an offset token, a host or a count that the service did not give. With `is_processed`
the request takes effect first, so that the client may not conclude anything from the answer.
"""

from __future__ import annotations

import gzip
import random
from dataclasses import dataclass, replace

import orjson

from agent.emulator.responses import Answer, RawAnswer

_STATUSES = (
    *(200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408),
    *(409, 410, 411, 412, 413, 414, 415, 416, 417, 418, 421, 422, 423, 424, 425, 426, 428, 429, 431, 451),
    *(500, 501, 502, 503, 504, 505, 507, 508, 511, 520, 522, 530, 599),
)
_CODES = (
    *("ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER", "ERR_CHANNEL_HAS_INVALID_CLIENT_SEQUENCER"),
    *("ERR_CHANNEL_MUST_BE_REOPENED", "ERR_CHANNEL_MUST_BE_REOPENED_DUE_TO_ROW_SEQ_GAP", "STALE_PIPE_CACHE"),
    *("STALE_CONTINUATION_TOKEN_SEQUENCER", "ERR_CHANNEL_HAS_UNCOMMITTED_DATA", "ERR_PIPE_IN_INVALID_STATE"),
    *("ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED", "ERR_TABLE_DOES_NOT_EXIST_NOT_AUTHORIZED"),
    *("ERR_GENERAL_EXCEPTION_RETRY_REQUEST", "ERR_OPEN_CHANNEL_IN_PROGRESS", "ERR_MALFORMED_REQUEST"),
    *("390101", "390144", "390186", "390303", "390318", "390422", "390701", "390913", "391902", "394302"),
    *("395092", "4", "3", "", "x" * 5_000, "ERR\nWATCHDOG_USEC=1", "\x1b[2J", "12447170F7"),
)
_MESSAGES = ("no", "Value '12447170F7' is not recognized", "a\nb\x1b[2J", "", "x" * 20_000)
_HTML = b"<!DOCTYPE html><html><body>Please log in to use this network</body></html>"
_MALFORMED: tuple[object, ...] = (None, "3", 3.5, True, -1, 2**63, [1], {"n": 1}, "a\nb", "x" * 400)
_BOOKKEEPING = (
    *("created_on_ms", "rows_error_count", "rows_errors", "rows_inserted", "rows_parsed"),
    *("last_error_offset_upper_bound", "last_error_message", "last_error_timestamp"),
)
_HEADERS: tuple[dict[str, str], ...] = (
    {},
    {},
    {"Retry-After": "0"},
    {"Retry-After": "0.01"},
    {"Retry-After": "-5"},
    {"Retry-After": "soon"},
    {"Retry-After": "Wed, 21 Oct 2065 07:28:00 GMT"},
    {"Date": "Fri, 31 Dec 99999999999999 23:59:59 GMT"},
    {"Date": "yesterday"},
    {"Date": "Fri, 31 Dec 9999 23:59:59 GMT"},
    {"Location": "http://[::1"},
    {"Location": "https://127.0.0.1:9/login"},
    {"Set-Cookie": "a=b; Domain=.com", "X-Cache": "HIT", "Age": "7"},
    {"X-Snowflake-Session": "\xe9"},
    {"X-Long": "x" * 70_000},
    {f"X-{number}": "1" for number in range(120)},
    {"Content-Encoding": "gzip"},
    {"Content-Encoding": "gzip, zstd, br"},
    {"Transfer-Encoding": "gzip"},
    {"Content-Length": "7_0"},
    {"Content-Length": "-5"},
    {"Content-Length": "999999999999999999"},
)
_KINDS = ("plain", "plain", "mutated", "headers", "cut", "slow", "closed", "continue", "chunks", "garbage")
_SLOW_PIECES = 8
_PAUSE_S = 0.005


@dataclass(frozen=True, slots=True)
class Generated:
    """One drawn answer; `seed` draws its parts."""

    is_processed: bool
    kind: str
    seed: int

    def answer(self, right: Answer | None) -> Answer | RawAnswer | None:
        """The answer in place of the right one; None closes the connection."""
        draw = random.Random(self.seed)  # noqa: S311 - to be repeated by its seed
        status, body, headers = draw.choice(_STATUSES), _body(draw), draw.choice(_HEADERS)
        match self.kind:
            case "mutated" if right is not None:
                return _mutated(right, draw)
            case "closed":
                return None
            case "plain" | "mutated" if _is_success_of(status):
                return Answer(status, body if status != 204 else b"")  # noqa: PLR2004 - No Content
            case "plain" | "mutated":
                return Answer(status, body, headers=_legal(headers))
            case kind:
                return _raw(kind, status, body, headers, draw)


class Generator:
    """Draws answers, the same ones for the same seed; next() is None where the right answer is given."""

    def __init__(self, seed: int, share: float) -> None:
        self._draw = random.Random(seed)  # noqa: S311 - as above
        self._share = share

    def next(self) -> Generated | None:
        """The next answer."""
        chosen, processed, kind, seed = (
            self._draw.random() < self._share,
            self._draw.random() < 0.5,  # noqa: PLR2004 - a coin
            self._draw.choice(_KINDS),
            self._draw.getrandbits(32),
        )
        return Generated(processed, kind, seed) if chosen else None


def _is_success_of(status: int) -> bool:
    return 200 <= status < 300  # noqa: PLR2004 - the class of success, RFC 9110 15.3


def _legal(headers: dict[str, str]) -> dict[str, str]:
    """The headers that leave the framing of the answer as it is."""
    return {
        name: value for name, value in headers.items() if name not in ("Content-Length", "Transfer-Encoding")
    }


def _body(draw: random.Random) -> bytes:
    code, message = draw.choice(_CODES), draw.choice(_MESSAGES)
    number = int(code) if code.isdecimal() else 7
    return draw.choice(
        (
            b"",
            _HTML,
            b"upstream connect error or disconnect/reset before headers",
            orjson.dumps({"code": code, "message": message}),
            orjson.dumps({"error_code": code, "message": message}),
            orjson.dumps({"status_code": number, "message": message}),
            orjson.dumps(code),
            orjson.dumps({"code": {"a": [code]}, "message": 7}),
            b"null",
            b"[]",
            b"{}",
            b'{"status_code": 0',
            b'{"next_continuation_token": "\\ud800", "channel_statuses": {}}',
            b'{"next_continuation_token": null, "channel_status": null, "channel_statuses": null}',
            b"[" * 50_000,
            b'{"code": 1e999, "rows_error_count": ' + b"9" * 10_000 + b"}",
            bytes(range(256)) * 4,
            gzip.compress(_HTML, mtime=0),
            b"x" * 2_000_000,
        )
    )


def _mutated(right: Answer, draw: random.Random) -> Answer:
    """The right answer with bookkeeping that is malformed or missing."""
    try:
        content = orjson.loads(right.body)
    except orjson.JSONDecodeError:
        return right
    if not isinstance(content, dict):
        return right
    statuses = [content.get("channel_status"), *dict(content.get("channel_statuses") or {}).values()]
    for status in statuses:
        if isinstance(status, dict):
            for name in draw.sample(_BOOKKEEPING, draw.randint(1, len(_BOOKKEEPING))):
                status[name] = draw.choice(_MALFORMED)
                if draw.random() < 0.2:  # noqa: PLR2004 - some are missing
                    del status[name]
    # JSON has integers of any size, orjson only those of 64 bits.
    text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS).replace(b"9223372036854775808", b"9" * 30)
    return replace(right, body=text)


def _raw(kind: str, status: int, body: bytes, headers: dict[str, str], draw: random.Random) -> RawAnswer:
    lines = {"Content-Type": "application/json", "Content-Length": str(len(body))} | headers
    head = f"HTTP/1.1 {status} X\r\n".encode() + b"".join(
        f"{name}: {value}\r\n".encode("latin-1") for name, value in lines.items()
    )
    whole = head + b"\r\n" + body
    match kind:
        case "cut":
            return RawAnswer(status, (whole[: draw.randrange(len(whole))],))
        case "slow":
            size = len(whole) // _SLOW_PIECES + 1
            pieces = tuple(whole[start : start + size] for start in range(0, len(whole), size))
            return RawAnswer(status, pieces, _PAUSE_S)
        case "continue":
            return RawAnswer(status, (b"HTTP/1.1 100 Continue\r\n\r\n" * draw.randint(1, 200), whole))
        case "chunks":
            odd = draw.choice(
                (b"xyz\r\n", b"-5\r\nabcde\r\n", b"ffffffffffff\r\n", b"0" * 70_000, b"2\r\n{}\r\n0\r\nX: 1")
            )
            return RawAnswer(status, (b"HTTP/1.1 %d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status + odd,))
        case "garbage":
            return RawAnswer(status, (draw.randbytes(draw.randrange(1, 300)),))
        case _:
            return RawAnswer(status, (whole,))
