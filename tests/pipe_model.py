"""A small model of Snowflake's pipe behind the HTTP seam: what tests of the uploader send to."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import zstandard

from agent.errors import ReplyLostError, UnreachableError
from agent.snowpipe.account import Account, Identity
from agent.snowpipe.channel import Channel
from agent.snowpipe.http import Http
from agent.snowpipe.jwt import KeyPair
from agent.snowpipe.wire import PipeName, Reply, Request
from tests.swipes import DrivenClock

Endpoint = Literal["hostname", "token", "open", "append", "status"]


class Seen(NamedTuple):
    """A request, when it left, and what identifies it."""

    at: float
    endpoint: Endpoint
    request_id: str
    retry_count: int
    body: bytes


@dataclass(frozen=True)
class Refuse:
    """Answer so instead of processing."""

    status: int
    code: str = ""
    retry_after: float | None = None


@dataclass(frozen=True)
class Lose:
    """No answer comes; whether it was processed is nothing the client can know."""

    processed: bool


@dataclass(frozen=True)
class Unreachable:
    """The request never leaves."""


@dataclass(frozen=True)
class Fall:
    """The channel falls ill: what is buffered is gone, it has to be reopened."""


Fault = Refuse | Lose | Unreachable | Fall


@dataclass
class _Buffered:
    rows: list[bytes]
    token: str
    due: float


class PipeModel(Http):
    """One channel: its position is fenced by continuation tokens, rows are committed `lag_s` after a 200.

    `faults` happen to the next requests of a channel, one each. Every request takes `way_s`.
    """

    def __init__(self, clock: DrivenClock, *, lag_s: float = 0.1, way_s: float = 0.01) -> None:
        super().__init__(ca_file=None)
        self.clock = clock
        self.lag_s = lag_s
        self.way_s = way_s
        self.faults: deque[Fault] = deque()
        self.seen: list[Seen] = []
        self.table: list[int] = []
        self.in_flight = self.most_in_flight = 0
        self._committed: str | None = None
        self._buffered: list[_Buffered] = []
        self._writer = self._sequence = 0
        self._is_ill = False

    def send(self, base_url: str, request: Request, *, token: str, token_type: str) -> Reply:
        del base_url, token, token_type  # who is allowed is no concern of this model
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self._answer(request)
        finally:
            self.clock.advance(self.way_s)
            self.in_flight -= 1

    def forget_channel(self) -> None:
        """What happens to a channel unused for 30 days."""
        self._committed = None
        self._writer += 1

    def of(self, *endpoints: Endpoint) -> list[Seen]:
        """The requests to these endpoints, in order."""
        return [seen for seen in self.seen if seen.endpoint in endpoints]

    def _answer(self, request: Request) -> Reply:
        query = dict(request.query)
        endpoint = _endpoint(request)
        self.seen.append(
            Seen(self.clock.seconds, endpoint, query["requestId"], int(query["retryCount"]), request.body)
        )
        self._commit_what_is_due()
        if endpoint == "hostname":
            return Reply(200, {}, b"127.0.0.1")
        if endpoint == "token":
            return Reply(200, {}, b"scoped")
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, Unreachable):
            raise UnreachableError(f"{request.what}: cannot connect")
        if isinstance(fault, Refuse):
            headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
            return Reply(fault.status, headers, json.dumps({"code": fault.code}).encode())
        if isinstance(fault, Fall):
            self._is_ill = True
            self._buffered.clear()
        lost = isinstance(fault, Lose)
        reply = (
            None
            if isinstance(fault, Lose) and not fault.processed
            else self._processed(endpoint, request, query)
        )
        if lost or reply is None:
            raise ReplyLostError(f"{request.what}: the connection broke")
        return reply

    def _processed(self, endpoint: Endpoint, request: Request, query: dict[str, str]) -> Reply:
        match endpoint:
            case "open":
                return self._open(json.loads(request.body))
            case "append":
                return self._append(request.body, query)
            case _:
                name = json.loads(request.body)["channel_names"][0]
                return _json({"channel_statuses": {name: self._status()}})

    def _open(self, content: dict[str, str]) -> Reply:
        self._buffered.clear()
        self._writer, self._sequence, self._is_ill = self._writer + 1, 0, False
        self._committed = content.get("offset_token", self._committed)
        return _json({"next_continuation_token": self._continuation(), "channel_status": self._status()})

    def _append(self, body: bytes, query: dict[str, str]) -> Reply:
        if query["continuationToken"] != self._continuation():
            return _json({"code": "STALE_CONTINUATION_TOKEN_SEQUENCER"}, 400)
        self._sequence += 1
        # An ill channel goes on answering 200, and drops the rows.
        if not self._is_ill:
            rows = zstandard.ZstdDecompressor().decompress(body).splitlines()
            self._buffered.append(_Buffered(rows, query["endOffsetToken"], self.clock.seconds + self.lag_s))
        return _json({"next_continuation_token": self._continuation()})

    def _commit_what_is_due(self) -> None:
        while self._buffered and self._buffered[0].due <= self.clock.seconds:
            buffered = self._buffered.pop(0)
            self.table += [json.loads(row)["seq"] for row in buffered.rows]
            self._committed = buffered.token

    def _continuation(self) -> str:
        return f"{self._writer}_{self._sequence}"

    def _status(self) -> dict[str, object]:
        return {
            "channel_status_code": "ERR_CHANNEL_MUST_BE_REOPENED" if self._is_ill else "SUCCESS",
            "last_committed_offset_token": self._committed,
            "rows_error_count": 0,
        }


def open_channel(http: Http, key: KeyPair, clock: DrivenClock) -> Callable[[str], Channel]:
    """How an uploader gets at its channel: the real account, channel and wire above the model."""
    account = Account(
        http,
        Identity("MYORG-MYACCOUNT", "SFE_INGEST_USER", None, "http://127.0.0.1:9"),
        load_key=lambda: key,
        wall_s=clock.wall_s,
        monotonic_s=clock.monotonic_s,
    )
    return lambda name: Channel(account, PipeName("DB", "SCHEMA", "PIPE"), name)


def _endpoint(request: Request) -> Endpoint:
    if request.path.endswith("/hostname"):
        return "hostname"
    if request.path == "/oauth/token":
        return "token"
    if request.path.endswith("/rows"):
        return "append"
    return "open" if request.method == "PUT" else "status"


def _json(content: object, status: int = 200) -> Reply:
    return Reply(status, {}, json.dumps(content).encode())
