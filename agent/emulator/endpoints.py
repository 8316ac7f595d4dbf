"""The endpoints of Snowpipe Streaming: one request in, one answer out; independent of the HTTP library."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qsl

from agent.emulator import request_bodies
from agent.emulator.anything import Generated
from agent.emulator.channels import ELASTIC, Channel, Channels, is_same, stored
from agent.emulator.commits import Commits
from agent.emulator.credentials import Credentials
from agent.emulator.database import Database
from agent.emulator.faults import Faults, Rule
from agent.emulator.pipe_info import pipe_info
from agent.emulator.request_log import RequestLog, Seen
from agent.emulator.responses import (
    Answer,
    RawAnswer,
    RefusalError,
    json_answer,
    malformed,
    text_answer,
    unknown_pipe,
)
from agent.emulator.routes import Call, Endpoint, route
from agent.emulator.row_loader import DEFAULT_PIPE, TABLE

_ACCEPTED_TYPES = frozenset({"application/json", "application/*", "*/*"})
_OFFSET_PARAMETERS = ("offsetToken", "startOffsetToken", "endOffsetToken", "continuationToken")


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request; header names in lower case, in the order sent; `read` gives the whole body."""

    method: str
    path: str  # as sent, percent-encoded
    query: str
    headers: Mapping[str, str]
    arrived_ns: int  # CLOCK_MONOTONIC, when the headers had arrived
    read: Callable[[], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Names:
    """The account that is emulated: its objects, and the host that accepts rows."""

    database: str
    schema: str
    ingest_host: str


class Endpoints:
    """Answers every request of the streaming API; its state is in the objects passed to it."""

    def __init__(
        self,
        *,
        names: Names,
        channels: Channels,
        commits: Commits,
        credentials: Credentials,
        database: Database,
        faults: Faults,
        request_log: RequestLog,
        limits: bool,
    ) -> None:
        self._names = names
        self.channels = channels
        self._commits = commits
        self.credentials = credentials
        self._database = database
        self.faults = faults
        self.request_log = request_log
        self._limits = limits
        self._host = names.ingest_host
        self._old: int | None = None  # the status at other names of the host; 0: none, the connection ends
        self._endpoints: dict[Endpoint, Callable[[_Received], Awaitable[Answer]]] = {
            Endpoint.HOSTNAME: self._hostname,
            Endpoint.TOKEN: self._token,
            Endpoint.PIPE_INFO: self._pipe_info,
            Endpoint.OPEN: self._open,
            Endpoint.APPEND: self._append,
            Endpoint.STATUS: self._status,
            Endpoint.DROP: self._drop,
            Endpoint.ELASTIC: self._elastic,
            Endpoint.FILE: self._file,
        }

    async def move(self, host: str, old: int) -> None:
        """Fail over: another ingest host, new tokens, no open channel; `old` answers at the old name."""
        self._host, self._old = host, old
        self.credentials.ingest_host = host
        self.credentials.expire_scoped_tokens()
        for channel in self.channels:
            channel.continuation_token = None
            await self._commits.discard(channel)

    async def move_back(self) -> None:
        """Undo move()."""
        if self._host != self._names.ingest_host:
            await self.move(self._names.ingest_host, 0)
        self._old = None

    async def answer(self, request: Request) -> Answer | RawAnswer | None:
        """The answer, or None if the connection is to be closed without one."""
        try:
            call = route(request.method, request.path)
        except RefusalError as refusal:
            self.request_log.note(_seen(request, None, status=refusal.status))
            return refusal.answer()
        seen = _seen(request, call)
        self.request_log.note(seen)
        answer = await self._process(request, call, seen)
        if answer is not None:
            seen.status = answer.status
        return answer

    async def _process(self, request: Request, call: Call, seen: Seen) -> Answer | RawAnswer | None:
        after = _After()
        try:
            query = dict(parse_qsl(request.query, keep_blank_values=True))
            received = _Received(call, request, query, await request.read())
            seen.bytes = len(received.wire)
            after = await self._obey_faults(call)
            if after.generated is not None and not after.generated.is_processed:
                return after.generated.answer(None)
            if not after.is_processed:
                return None
            self._check(received)
            answer = await self._endpoints[call.endpoint](received)
        except RefusalError as refusal:
            answer = refusal.answer()
        except ConnectionError:
            return None
        if after.generated is not None:
            return after.generated.answer(answer)
        return answer if after.is_answered else None

    async def _obey_faults(self, call: Call) -> _After:
        """Carry out the rules on a request. Raises RefusalError for a status to answer."""
        after = _After()
        for rule in self.faults.on_request(call.endpoint):
            match rule.do:
                case "delay":
                    await asyncio.sleep(rule.keys["seconds"])
                case "status":
                    raise _injected(rule)
                case "drop_before":
                    after.is_processed = False
                    return after
                case "anything" if rule.generator is not None:
                    after.generated = rule.generator.next()
                case _:
                    after.is_answered = False
        return after

    def _is_old(self, received: _Received) -> bool:
        host = received.header("host").rpartition(":")[0] or received.header("host")
        return self._old is not None and host.lower() != self._host.lower()

    def _check(self, received: _Received) -> None:
        if received.call.endpoint not in (Endpoint.HOSTNAME, Endpoint.TOKEN) and self._is_old(received):
            if self._old == 0:
                raise ConnectionAbortedError
            raise RefusalError(self._old or 0, "ERR_MOVED", "The pipe moved.", body="empty")
        accepted = received.header("accept")
        types = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
        if not types & _ACCEPTED_TYPES:
            raise RefusalError(
                406, "391902", f"Unsupported Accept header {'null' if not accepted else 'value'}."
            )
        authorization = received.header("authorization")
        token_type = received.header("x-snowflake-authorization-token-type")
        match received.call.endpoint:
            case Endpoint.TOKEN:
                self.credentials.check_jwt(authorization, token_type)
            case Endpoint.HOSTNAME | Endpoint.PIPE_INFO | Endpoint.STATUS:
                self.credentials.check_any(authorization, token_type)
            case _:
                self.credentials.check_scoped(authorization, token_type)
        names = received.call.names
        if "database" in names and (
            not is_same(names["database"], stored(self._names.database))
            or not is_same(names["schema"], stored(self._names.schema))
        ):
            raise unknown_pipe()
        if "pipe" in names:
            self.channels.pipe(names["pipe"])

    async def _hostname(self, _: _Received) -> Answer:
        # Without a port: clients take scheme and port from the account URL.
        return text_answer(self._host)

    async def _token(self, received: _Received) -> Answer:
        return text_answer(self.credentials.issue_scoped(request_bodies.form(received.wire)))

    async def _pipe_info(self, received: _Received) -> Answer:
        request_bodies.json_object(received.wire)
        return json_answer(pipe_info(_now_ms()))

    async def _open(self, received: _Received) -> Answer:
        body = request_bodies.json_object(received.wire)
        offset_token = body.get("offset_token")
        if offset_token is not None and not isinstance(offset_token, str):
            raise malformed("offset_token must be a string.")
        fail_on_uncommitted = _flag(body)
        name = received.call.names["channel"]
        if name.upper() == ELASTIC:
            raise malformed("The channel ELASTIC is not opened.")
        channel = self.channels.find_or_make(received.call.names["pipe"], name, _now_ms())
        self._check_request_rate(channel)
        self._check_uncommitted(channel, fail_on_uncommitted)
        with channel.alone():
            await self._commits.discard(channel)
            continuation_token = channel.opened(offset_token)
            await self._commits.in_database(lambda: self._database.save(channel.record))
        status = self._status_of(channel)
        return json_answer({"next_continuation_token": continuation_token, "channel_status": status})

    async def _append(self, received: _Received) -> Answer:
        query = received.query
        channel = self.channels.find(received.call.names["pipe"], received.call.names["channel"])
        self._check_request_rate(channel)
        rows = await self._rows(received)
        # No await from here to the answer, so only one request consumes a continuation token.
        if "continuationToken" not in query:
            raise malformed("The query parameter continuationToken is missing.")
        invalid = channel.invalid
        if invalid is not None and not invalid.appends_accepted:
            raise RefusalError(409, invalid.code, "The channel is invalid; open it again.")
        channel.check_continuation(query["continuationToken"])
        self._check_byte_rate(channel, len(rows))
        if invalid is None:
            self._commits.buffer(channel, rows, query.get("endOffsetToken", query.get("offsetToken")))
        channel.appends += 1
        channel.last_append_ns = received.request.arrived_ns
        return json_answer(
            {"status_code": 0, "message": "Success", "next_continuation_token": channel.advance()},
            # A client may send it back with its next append, so that the same server gets it.
            headers={"X-Snowflake-Session": channel.session},
        )

    async def _file(self, _: _Received) -> Answer:
        # Clients use it for large batches, which they first upload to cloud storage; the emulator has none.
        raise RefusalError(
            400,
            "ERR_FILE_MODE_NOT_SUPPORTED",
            "The emulator takes rows, not files: flush less than 1 MiB at a time.",
        )

    async def _elastic(self, received: _Received) -> Answer:
        names = received.call.names
        if "table" in names and names["table"].upper() != TABLE:
            raise unknown_pipe()
        if any(name in received.query for name in _OFFSET_PARAMETERS):
            raise malformed("Elastic mode takes no offset or continuation token.")
        channel = self.channels.find_or_make(names.get("pipe", DEFAULT_PIPE), ELASTIC, _now_ms())
        self._commits.buffer(channel, await self._rows(received), None)
        channel.appends += 1
        channel.last_append_ns = received.request.arrived_ns
        # Only the message is documented; the vendor's SDK cannot parse the answer without the token.
        return json_answer({"message": "OK", "next_continuation_token": ""})

    async def _status(self, received: _Received) -> Answer:
        wanted = request_bodies.json_object(received.wire).get("channel_names")
        if not isinstance(wanted, list) or not all(isinstance(name, str) for name in wanted):
            raise malformed("channel_names must be a list of strings.")
        pipe = received.call.names["pipe"]
        statuses = {}
        for name in wanted:
            if name == ELASTIC:
                self.channels.find_or_make(pipe, ELASTIC, _now_ms())
            channel = self.channels.named_exactly(pipe, name)
            if channel is not None:
                statuses[name] = self._status_of(channel)
        return json_answer({"channel_statuses": statuses})

    def _status_of(self, channel: Channel) -> dict[str, object]:
        errors_by = time.monotonic() - self.channels.errors_late_s
        return channel.status(self._names.database, self._names.schema, errors_by)

    async def _drop(self, received: _Received) -> Answer:
        fail_on_uncommitted = _flag(request_bodies.json_object(received.wire))
        channel = self.channels.find(received.call.names["pipe"], received.call.names["channel"])
        self._check_request_rate(channel)
        self._check_uncommitted(channel, fail_on_uncommitted)
        await self.delete(channel)
        token = channel.record.offset_token
        return json_answer({"status_code": 0, "message": "Success", "last_committed_offset_token": token})

    async def delete(self, channel: Channel) -> None:
        """Delete the channel, with its offset token and its buffer."""
        with channel.alone():
            await self._commits.discard(channel)
            self.channels.remove(channel)
            await self._commits.in_database(lambda: self._database.delete(channel.record))

    async def _rows(self, received: _Received) -> bytes:
        rows = request_bodies.decompressed(received.wire, received.header("content-encoding"))
        self.faults.check_rows(len(received.wire), rows)
        await self._commits.room_for(rows)
        return rows

    def _check_request_rate(self, channel: Channel) -> None:
        now = time.monotonic()
        channel.request_peak.add(now)
        if self._limits:
            if not channel.requests.allows(now, 1.0):
                raise RefusalError(
                    429, "390701", "Request rate exceeds max: 10 requests per second and channel."
                )
            channel.requests.take(1.0)

    def _check_byte_rate(self, channel: Channel, size: int) -> None:
        now = time.monotonic()
        if self._limits:
            if not channel.bytes.allows(now, 0.0):
                raise RefusalError(429, "390701", "Byte rate exceeds max: 20 MB per second and channel.")
            channel.bytes.take(size)
        channel.byte_peak.add(now, size)

    def _check_uncommitted(self, channel: Channel, fail: bool) -> None:  # noqa: FBT001 - named by its JSON key
        if fail and self._commits.busy(channel):
            raise RefusalError(
                409, "ERR_CHANNEL_HAS_UNCOMMITTED_DATA", "The channel has rows that are not committed yet."
            )


@dataclass(slots=True)
class _After:
    """What the fault rules leave of a request."""

    is_processed: bool = True
    is_answered: bool = True
    generated: Generated | None = None


@dataclass(frozen=True, slots=True)
class _Received:
    """A request with its body read and its query parsed."""

    call: Call
    request: Request
    query: dict[str, str]
    wire: bytes

    def header(self, name: str) -> str:
        return self.request.headers.get(name, "")


def _seen(request: Request, call: Call | None, status: int | None = None) -> Seen:
    query = parse_qsl(request.query, keep_blank_values=True)
    values = dict(query)
    return Seen(
        endpoint=None if call is None else call.endpoint.value,
        method=request.method,
        path="" if call is None else call.shape,
        channel=None if call is None else call.names.get("channel"),
        query=[name for name, _ in query],
        headers=list(request.headers),
        content_type=request.headers.get("content-type", ""),
        content_encoding=request.headers.get("content-encoding", ""),
        request_id=values.get("requestId"),
        retry_count=values.get("retryCount"),
        arrived_ns=request.arrived_ns,
        status=status,
    )


def _injected(rule: Rule) -> RefusalError:
    keys = rule.keys
    status = keys["status"]
    return RefusalError(
        status,
        keys.get("code", f"ERR_INJECTED_{status}"),
        keys.get("message", "Injected by a fault rule of the emulator."),
        retry_after=keys.get("retry_after"),
        body=keys.get("body", "json"),
    )


def _flag(body: Mapping[str, object]) -> bool:
    value = body.get("fail_on_uncommitted_rows", False)
    if not isinstance(value, bool):
        raise malformed("fail_on_uncommitted_rows must be true or false.")
    return value


def _now_ms() -> int:
    return int(time.time() * 1000)
