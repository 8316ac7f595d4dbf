"""A model of Snowflake's pipe in place of the HTTP session, for tests of the uploader."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import zstandard

from agent.errors import OutcomeUnknownError, UnreachableError
from agent.keys.keypair import KeyPair
from agent.settings import SnowflakeSettings
from agent.snowpipe.channel import Channel
from agent.snowpipe.client import Client
from agent.snowpipe.http import Http
from agent.snowpipe.wire import PipeName, Reply, Request
from tests.support.swipes import DrivenClock

Endpoint = Literal["hostname", "token", "open", "append", "status"]


class Seen(NamedTuple):
    """A request, when it left, and what identifies it."""

    at: float
    endpoint: Endpoint
    request_id: str
    retry_count: int
    body: bytes
    channel: str


@dataclass(frozen=True)
class Refuse:
    """Answer with this status instead of processing the request."""

    status: int
    code: str = ""
    retry_after: float | None = None


@dataclass(frozen=True)
class Lose:
    """The answer is lost; the client cannot know whether the request was processed."""

    processed: bool


@dataclass(frozen=True)
class Unreachable:
    """The request is not sent."""


@dataclass(frozen=True)
class Invalidate:
    """The channel becomes invalid: its buffer is lost, it has to be reopened."""


Fault = Refuse | Lose | Unreachable | Invalidate

Row = dict[str, Any]


class Landed(NamedTuple):
    """A row in the table, and the channel it came through."""

    channel: str
    row: Row


@dataclass
class _Buffered:
    rows: list[bytes]
    token: str
    due: float


@dataclass
class ModelChannel:
    """The server's state of one channel. Its counters run since it was created."""

    created_on_ms: int
    committed: str | None = None
    errors: int = 0
    late: list[tuple[float, str]] = field(default_factory=list)  # errors not counted yet: when, bound
    error_bound: str | None = None
    buffered: list[_Buffered] = field(default_factory=list)
    writer: int = 0
    sequence: int = 0
    is_invalid: bool = False

    @property
    def continuation(self) -> str:
        return f"{self.created_on_ms}_{self.writer}_{self.sequence}"


class PipeModel(Http):
    """Channels fenced by continuation tokens; rows are committed `lag_s` after a 200.

    Channels of another pipe than PIPE are known here as `<pipe>:<name>`.
    `faults` happen to the next requests of a channel, one each. Every request takes `way_s`.
    """

    def __init__(self, clock: DrivenClock, *, lag_s: float = 0.1, way_s: float = 0.01) -> None:
        super().__init__(ca_file=None)
        self.clock = clock
        self.lag_s = lag_s
        self.way_s = way_s
        self.faults: deque[Fault] = deque()
        self.words = "not a number"  # the message of every error
        self.bookkeeping: dict[str, object] = {}  # replaces members of each channel status
        self.seen: list[Seen] = []
        self.landed: list[Landed] = []
        self.not_loaded: list[Landed] = []
        self.refused: list[Landed] = []  # rows that were refused when they came alone
        self.in_flight = self.most_in_flight = 0
        self.channels: dict[str, ModelChannel] = {}
        self.cannot_load: Callable[[Row], bool] = lambda _: False
        self.refuses: Callable[[Row], bool] = lambda _: False
        self.takes_bytes = 4_000_000
        self.way_takes_bytes = 4_000_000  # larger bodies break the connection
        self.bytes_per_s = math.inf  # of the way to the server
        self.discarded = 0  # rows that an open discarded
        self.fails: Callable[[Endpoint], Reply | None] = lambda _: None  # the answer of a broken endpoint
        self.is_stalled = False  # nothing is committed any more
        self.counts_errors_late = False  # only in the second status after the commit
        self.errors_count_after_s = 0.0  # so long after the commit
        self.refusal_status = 400  # for rows that are refused
        self.status_code = "SUCCESS"
        self.foreign_token: str | None = None  # every channel has it when it is opened
        self.refused_channels: set[str] = set()  # 404 for every request to them

    @property
    def table(self) -> list[int]:
        """The seq of every live row that landed."""
        return [row["seq"] for _, row in self.landed if not row.get("replay", False)]

    @property
    def replayed(self) -> list[int]:
        """The seq of every replayed row that landed."""
        return [row["seq"] for _, row in self.landed if row.get("replay", False)]

    def send(self, base_url: str, request: Request, *, token: str, token_type: str) -> Reply:
        del base_url, token, token_type  # this model does not check credentials
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            return self._answer(request)
        finally:
            self.clock.advance(self.way_s)
            self.in_flight -= 1

    def forget_channel(self) -> None:
        """Delete the channel, as the service does after 30 idle days."""
        self.commit_what_is_due()
        self.channels.clear()

    def other_writer(self, name: str, token: str | None = None) -> None:
        """Another writer opens a channel, and moves it if a token is given."""
        channel = self.channels[name]
        channel.writer, channel.sequence = channel.writer + 1, 0
        channel.buffered.clear()
        channel.committed = token or channel.committed

    def of(self, *endpoints: Endpoint) -> list[Seen]:
        """The requests to these endpoints, in order."""
        return [seen for seen in self.seen if seen.endpoint in endpoints]

    def commit_what_is_due(self) -> None:
        for name, channel in self.channels.items():
            while channel.buffered and channel.buffered[0].due <= self.clock.seconds and not self.is_stalled:
                buffered = channel.buffered.pop(0)
                for line in buffered.rows:
                    self._load(name, channel, json.loads(line), buffered.token)
                channel.committed = buffered.token

    def _load(self, name: str, channel: ModelChannel, row: Row, token: str) -> None:
        if self.cannot_load(row):
            self.not_loaded.append(Landed(name, row))
            channel.late.append((self.clock.seconds + self.errors_count_after_s, token))
        else:
            self.landed.append(Landed(name, row))

    def _answer(self, request: Request) -> Reply:
        query = dict(request.query)
        endpoint, name = _endpoint(request), _channel(request)
        self.seen.append(
            Seen(
                self.clock.seconds,
                endpoint,
                query["requestId"],
                int(query["retryCount"]),
                request.body,
                name,
            )
        )
        self.commit_what_is_due()
        if endpoint == "hostname":
            return Reply(200, {}, b"127.0.0.1")
        if endpoint == "token":
            return Reply(200, {}, b"scoped")
        fault = self.faults.popleft() if self.faults else None
        if isinstance(fault, Unreachable):
            raise UnreachableError(f"{request.what}: cannot connect")
        if isinstance(fault, Refuse):
            headers = {} if fault.retry_after is None else {"retry-after": str(fault.retry_after)}
            content = {"code": fault.code, "message": self.words}
            return Reply(fault.status, headers, json.dumps(content).encode())
        if isinstance(fault, Invalidate) and name in self.channels:
            self.channels[name].is_invalid = True
            self.channels[name].buffered.clear()
        if (broken := self.fails(endpoint)) is not None:
            return broken
        self._carry(request)
        lost = isinstance(fault, Lose)
        reply = (
            None
            if isinstance(fault, Lose) and not fault.processed
            else self._processed(endpoint, name, request, query)
        )
        if lost or reply is None:
            raise OutcomeUnknownError(f"{request.what}: the connection broke")
        return reply

    def _carry(self, request: Request) -> None:
        """The way of the body: it may break, or take longer than the client waits."""
        size = len(request.body)
        needs_s, allowed_s = size / self.bytes_per_s, 60 + size / 20_000
        self.clock.advance(min(needs_s, allowed_s))
        if size > self.way_takes_bytes or needs_s > allowed_s:
            raise OutcomeUnknownError(f"{request.what}: the connection broke", sent_bytes=0, body_bytes=size)

    def _processed(self, endpoint: Endpoint, name: str, request: Request, query: dict[str, str]) -> Reply:
        gone: dict[str, object] = {"code": "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED"}
        if name in self.refused_channels:
            return _json(gone, 404)
        if endpoint == "open":
            return self._open(name, json.loads(request.body))
        if name not in self.channels:
            return _json({"channel_statuses": {}}) if endpoint == "status" else _json(gone, 404)
        if endpoint == "append":
            return self._append(name, request.body, query)
        return _json({"channel_statuses": {name.rpartition(":")[2]: self._status(self.channels[name])}})

    def _open(self, name: str, content: dict[str, Any]) -> Reply:
        channel = self.channels.setdefault(name, ModelChannel(created_on_ms=int(self.clock.seconds * 1e6)))
        if channel.buffered and content.get("fail_on_uncommitted_rows"):
            return _json({"code": "ERR_CHANNEL_HAS_UNCOMMITTED_DATA"}, 409)
        self.discarded += sum(len(buffered.rows) for buffered in channel.buffered)
        channel.buffered.clear()
        channel.writer, channel.sequence, channel.is_invalid = channel.writer + 1, 0, False
        channel.committed = self.foreign_token or content.get("offset_token", channel.committed)
        return _json(
            {"next_continuation_token": channel.continuation, "channel_status": self._status(channel)}
        )

    def _append(self, name: str, body: bytes, query: dict[str, str]) -> Reply:
        channel = self.channels[name]
        if query["continuationToken"] != channel.continuation:
            return _json({"code": "STALE_CONTINUATION_TOKEN_SEQUENCER"}, 400)
        # A refusal consumes the token, too: the documentation does not exclude it.
        channel.sequence += 1
        if len(body) > self.takes_bytes:
            return _json({"code": "TOO_LARGE"}, 413)
        lines = zstandard.ZstdDecompressor().decompress(body).splitlines()
        if any(self.refuses(json.loads(line)) for line in lines):
            if len(lines) == 1:
                self.refused.append(Landed(name, json.loads(lines[0])))
            return _json({"code": "ERR_ROWS"}, self.refusal_status)
        # An invalid channel still answers 200, and drops the rows.
        if not channel.is_invalid:
            channel.buffered.append(
                _Buffered(lines, query["endOffsetToken"], self.clock.seconds + self.lag_s)
            )
        return _json({"next_continuation_token": channel.continuation})

    def _status(self, channel: ModelChannel) -> dict[str, object]:
        while channel.late and channel.late[0][0] <= self.clock.seconds:
            channel.errors, channel.error_bound = channel.errors + 1, channel.late.pop(0)[1]
        errors = channel.errors
        if self.counts_errors_late and channel.committed != channel.error_bound:
            self.counts_errors_late = False
        elif self.counts_errors_late:
            errors = 0
        return {
            "channel_status_code": "ERR_CHANNEL_MUST_BE_REOPENED" if channel.is_invalid else self.status_code,
            "last_committed_offset_token": channel.committed,
            "created_on_ms": channel.created_on_ms,
            "rows_error_count": errors,
            "last_error_offset_upper_bound": channel.error_bound if errors else None,
            "last_error_message": self.words if errors else None,
        } | self.bookkeeping


def snowflake_settings(url: str, role: str | None = None) -> SnowflakeSettings:
    """The table [snowflake] of a client under test."""
    return SnowflakeSettings("MYORG-MYACCOUNT", "SFE_INGEST_USER", "DB", "SCHEMA", "PIPE", url, role)


def open_channel(http: Http, key: KeyPair, clock: DrivenClock) -> Callable[[str, str], Channel]:
    """The real client, channel and wire format over the model."""
    client = Client(
        http,
        snowflake_settings("http://127.0.0.1:9"),
        load_key=lambda: key,
        wall_s=clock.wall_s,
        monotonic_s=clock.monotonic_s,
    )
    return lambda name, pipe: Channel(client, PipeName("DB", "SCHEMA", pipe or "PIPE"), name)


def _endpoint(request: Request) -> Endpoint:
    if request.path.endswith("/hostname"):
        return "hostname"
    if request.path == "/oauth/token":
        return "token"
    if request.path.endswith("/rows"):
        return "append"
    return "open" if request.method == "PUT" else "status"


def _channel(request: Request) -> str:
    path, _, name = request.path.partition("/channels/")
    if path.endswith(":bulk-channel-status"):
        name = str(json.loads(request.body)["channel_names"][0])
    pipe = path.removesuffix(":bulk-channel-status").rpartition("/")[2]
    name = name.removesuffix("/rows")
    return f"{pipe}:{name}" if name and pipe != "PIPE" else name


def _json(content: object, status: int = 200) -> Reply:
    return Reply(status, {}, json.dumps(content).encode())
