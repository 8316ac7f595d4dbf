"""Answers of every kind that a server, a proxy or a network may give, from a seeded generator; pure.

An answer is drawn from status x body x headers x timing; the values are in anything_values.py. With
`is_processed` the request takes effect first, so that the client may not conclude anything from the answer.

Answers may be false wherever the client can find the truth by asking again: a status names an earlier,
another or no token, another state, other counts; an open or an append gives another continuation token;
host and scoped token are another account's. The one exception is the committed token of an open, on which
the client relies: where the server itself does not know the position, nothing is exact.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import orjson

from agent.emulator import anything_values as values
from agent.emulator.responses import Answer, RawAnswer

_KINDS = (
    *("plain", "plain", "mutated", "mutated", "false", "headers", "cut", "slow", "closed", "silent"),
    *("interim", "chunks", "garbage", "twice", "length"),
)
_SLOW_PIECES, _SLOW_PAUSE_S = 4, 0.002
_SILENCE_S = 0.02
_EMPTY = (204, 304)  # no body is sent with these


@dataclass(frozen=True, slots=True)
class Generated:
    """One drawn answer; `seed` draws its parts."""

    is_processed: bool
    kind: str
    seed: int

    def answer(self, right: Answer | None) -> Answer | RawAnswer | None:
        """The answer in place of the right one; None closes the connection."""
        draw = random.Random(self.seed)  # noqa: S311 - to be repeated by its seed
        status, body, headers = draw.choice(values.STATUSES), values.body(draw), draw.choice(values.HEADERS)
        match self.kind:
            case "mutated" if right is not None:
                return _mutated(right, draw)
            case "false" if right is not None:
                return _false(right, draw)
            case "closed":
                return None
            case "plain" | "mutated" | "false" if 200 <= status < 600:  # noqa: PLR2004 - final ones of HTTP
                return Answer(status, body if status not in _EMPTY else b"", headers=_legal(headers))
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


def _legal(headers: values.Headers) -> dict[str, str]:
    """The headers that leave the framing of the answer as it is."""
    framing = ("Content-Length", "Transfer-Encoding")
    return {name: value for name, value in headers if name not in framing and value.isprintable()}


# --- the right answer, changed -----------------------------------------------------------------


def _mutated(right: Answer, draw: random.Random) -> Answer:
    """The right answer with bookkeeping that is malformed, wrong or missing."""
    content = _object(right)
    if content is None:
        return right
    for status in _statuses(content):
        for name in draw.sample(values.BOOKKEEPING, draw.randint(1, len(values.BOOKKEEPING))):
            status[name] = draw.choice(values.MALFORMED)
            if draw.random() < 0.2:  # noqa: PLR2004 - some are missing
                del status[name]
    return replace(right, body=_text(content))


def _false(right: Answer, draw: random.Random) -> Answer:
    """The right answer with a value that the service did not give."""
    content = _object(right)
    if content is None:
        return replace(right, body=draw.choice(values.FALSE_TEXTS))
    if "next_continuation_token" in content and draw.random() < 0.5:  # noqa: PLR2004 - a coin
        content["next_continuation_token"] = draw.choice(values.CONTINUATION_TOKENS)
    for status in _statuses(content):
        if draw.random() < 0.5:  # noqa: PLR2004 - a coin
            status["channel_status_code"] = draw.choice(values.STATES)
        elif "channel_statuses" in content:
            status["last_committed_offset_token"] = draw.choice(values.OFFSET_TOKENS)
        if draw.random() < 0.3:  # noqa: PLR2004 - sometimes
            status["rows_error_count"] = draw.choice(values.COUNTS)
            status["last_error_message"] = draw.choice(values.MESSAGES)
    return replace(right, body=_text(content))


def _object(right: Answer) -> dict[str, object] | None:
    try:
        content = orjson.loads(right.body)
    except orjson.JSONDecodeError:
        return None
    return content if isinstance(content, dict) else None


def _statuses(content: dict[str, object]) -> list[dict[str, object]]:
    named = content.get("channel_statuses")
    found = [content.get("channel_status"), *(named.values() if isinstance(named, dict) else ())]
    return [status for status in found if isinstance(status, dict)]


def _text(content: dict[str, object]) -> bytes:
    # JSON has integers of any size and lone surrogates, orjson has neither.
    text = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    return text.replace(b"9223372036854775808", b"9" * 30).replace(b"<surrogate>", b"\\ud800")


# --- answers as bytes ----------------------------------------------------------------------------


def _raw(kind: str, status: int, body: bytes, headers: values.Headers, draw: random.Random) -> RawAnswer:
    whole = _whole(status, body, headers)
    match kind:
        case "cut":
            return RawAnswer(status, (whole[: draw.randrange(len(whole))],))
        case "slow":
            size = len(whole) // _SLOW_PIECES + 1
            pieces = tuple(whole[start : start + size] for start in range(0, len(whole), size))
            return RawAnswer(status, pieces, _SLOW_PAUSE_S)
        case "silent":
            return RawAnswer(status, (whole[: draw.choice((0, 9, 40, len(whole) - 1))],), _SILENCE_S)
        case "interim":
            interim = draw.choice((b"100 Continue", b"102 Processing", b"103 Early Hints\r\nLink: </a>"))
            return RawAnswer(status, ((b"HTTP/1.1 " + interim + b"\r\n\r\n") * draw.randint(1, 200), whole))
        case "chunks":
            head = b"HTTP/1.1 %03d X\r\nTransfer-Encoding: chunked\r\n\r\n" % status
            return RawAnswer(status, (head + draw.choice(values.CHUNKS),))
        case "garbage":
            return RawAnswer(status, (draw.randbytes(draw.randrange(1, 300)),))
        case "twice":
            return RawAnswer(status, (whole, _whole(500, b"{}", ())))
        case "length":
            length = str(max(0, len(body) + draw.choice((-5, -1, 1, 5, 10_000))))
            return RawAnswer(status, (_whole(status, body, (*headers, ("Content-Length", length))),))
        case _:
            return RawAnswer(status, (whole,))


def _whole(status: int, body: bytes, headers: values.Headers) -> bytes:
    lines = [("Content-Type", "application/json"), *headers]
    if not any(name == "Content-Length" for name, _ in headers):
        lines.append(("Content-Length", str(len(body))))
    head = b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in lines)
    return b"HTTP/1.1 %03d X\r\n" % status + head + b"\r\n" + body
