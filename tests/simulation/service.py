"""The service of a simulated history: the model of a pipe, behind hosts, tokens and drawn answers."""

from __future__ import annotations

import base64
import email.utils
import gzip
import json
import math
from collections import Counter
from collections.abc import Iterable
from random import Random
from typing import Any, cast

import zstandard

from agent.emulator.anything import Generator
from agent.emulator.responses import Answer, RawAnswer
from agent.errors import OutcomeUnknownError, UnreachableError
from agent.snowpipe.wire import Reply, Request
from tests.simulation.machine import Machine
from tests.simulation.network import Message, Response
from tests.support.pipe_model import Endpoint, Landed, PipeModel, Row

_TOKEN_S = 3_600
_JWT_S = 60  # 394302
_HOSTS = ("127.0.0.1", "localhost")


class _TrueClock:
    """The server's time, as PipeModel reads a clock."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine

    @property
    def seconds(self) -> float:
        return self._machine.true_us / 1e6

    def advance(self, seconds: float) -> None:
        self._machine.advance_us(int(seconds * 1e6))


class Service(PipeModel):
    """Snowflake's side. Everything that may be drawn is an attribute; recover() makes all of it good."""

    def __init__(self, machine: Machine, fingerprints: set[str], draw: Random) -> None:
        super().__init__(_TrueClock(machine), way_s=0.0)  # type: ignore[arg-type] # what it uses of a clock
        self.machine = machine
        self.fingerprints = fingerprints  # of the keys that sign in
        self.draw = draw
        self.host = _HOSTS[0]
        self._tokens: dict[str, tuple[float, str]] = {}  # until when, for which host
        self._made = 0
        self.answered: Counter[str] = Counter()
        self.guilty_cards: set[int] = set()  # those that were bad at any time
        self.bad_cards: dict[int, str] = {}  # "refused" or "not loaded"
        self.refuses = lambda row: self.bad_cards.get(card(row)) == "refused"
        self.cannot_load = lambda row: self.bad_cards.get(card(row)) == "not loaded"
        self.had_late_counts = False
        self._deleted_names: set[str] = set()
        self.open_refused_s = math.inf  # the first time by the server's clock
        self.recover()

    def recover(self) -> None:
        """Everything is as documented."""
        self.generators: dict[str, Generator] = {}
        self.lag_s = 0.3
        self.is_stalled = False
        self.status_code = "SUCCESS"
        self.bookkeeping = {}
        self.foreign_token = None
        self.refused_channels = set()
        self.bad_cards.clear()
        self.takes_bytes = 4_000_000
        self.errors_count_after_s = 0.0
        self.old_host_status = 410
        self.refused_encoding = ""
        # Status, code, Retry-After, and the share of the requests that are answered so.
        self.endpoint_fails: dict[str, tuple[int, str, float | None, float]] = {}
        self.fails = self._failing
        self.date_off_s = 0.0
        self.interim = 0

    def _failing(self, endpoint: Endpoint) -> Reply | None:
        if endpoint not in self.endpoint_fails:
            return None
        status, code, retry_after, share = self.endpoint_fails[endpoint]
        if share < 1 and self.draw.random() >= share:
            return None
        headers = {} if retry_after is None else {"retry-after": str(retry_after)}
        body = json.dumps({"code": code, "message": "no"}).encode() if code else b"<html>no</html>"
        return Reply(status, headers, body)

    # --- what happens to it ---------------------------------------------------------------------

    def forget(self) -> None:
        """The rows and requests so far are of no interest any more."""
        for known in (self.landed, self.not_loaded, self.refused, self.seen):
            known.clear()

    def move(self) -> None:
        """The pipe fails over to the other host."""
        self.host = _HOSTS[1 - _HOSTS.index(self.host)]

    def expire_tokens(self) -> None:
        """Every scoped token is refused from now on."""
        self._tokens.clear()

    def invalidate(self) -> None:
        """Every channel has to be reopened; what they had buffered is lost."""
        for channel in self.channels.values():
            channel.is_invalid = True
            channel.buffered.clear()

    def forget_channel(self) -> None:
        """Delete every channel."""
        self._deleted_names.update(self.channels)
        super().forget_channel()

    @property
    def had_several_channels(self) -> bool:
        """Whether channels of several names were opened at any time."""
        return len(self._deleted_names | set(self.channels)) > 1

    # --- requests -------------------------------------------------------------------------------

    def serve(self, message: Message) -> Response:
        """Process a request, and answer: right, or as drawn."""
        request = self._request(message)
        endpoint = self._endpoint(request)
        response = self._served(message, request, endpoint)
        is_odd = self.status_code != "SUCCESS" or endpoint in self.generators
        if endpoint == "open" and (is_odd or not response.is_success):
            self.open_refused_s = min(self.open_refused_s, self.clock.seconds)
        return response

    def _served(self, message: Message, request: Request, endpoint: Endpoint) -> Response:
        generator = self.generators.get(endpoint)
        drawn = generator.next() if generator is not None else None
        right: Reply | None = None
        if drawn is None or drawn.is_processed:
            try:
                right = self._right(message, request, endpoint)
            except (OutcomeUnknownError, UnreachableError):
                return Response((), ends="closed")
        if drawn is None:
            assert right is not None
            return self._as_bytes(Answer(right.status, right.body, headers=right.headers))
        self.answered[drawn.kind] += 1
        answer = drawn.answer(Answer(right.status, right.body, headers=right.headers) if right else None)
        if answer is None:
            return Response((), ends="closed")
        if isinstance(answer, RawAnswer):
            ends = "silent" if drawn.kind == "silent" else "closed"
            return Response(answer.pieces, answer.pause_s * 1_000, ends)
        return self._as_bytes(answer)

    def _as_bytes(self, answer: Answer) -> Response:
        date = email.utils.formatdate(self.clock.seconds + self.date_off_s, usegmt=True)
        named = {"Date": date, **answer.headers, "Content-Length": str(len(answer.body))}
        head = "".join(f"{name}: {value}\r\n" for name, value in named.items())
        interim = b"HTTP/1.1 103 Early Hints\r\n\r\n" * self.interim
        text = f"HTTP/1.1 {answer.status} X\r\n{head}\r\n".encode("latin-1")
        return Response((interim + text + answer.body,))

    def _request(self, message: Message) -> Request:
        plane = "control" if message.path in {"/v2/streaming/hostname", "/oauth/token"} else "ingest"
        method = cast("Any", message.method)
        return Request(
            "", cast("Any", plane), method, message.path, message.query, message.headers, message.body
        )

    @staticmethod
    def _endpoint(request: Request) -> Endpoint:
        if request.path.endswith("/hostname"):
            return "hostname"
        if request.path == "/oauth/token":
            return "token"
        if request.path.endswith("/rows"):
            return "append"
        return "open" if request.method == "PUT" else "status"

    def _right(self, message: Message, request: Request, endpoint: Endpoint) -> Reply:
        token = message.headers.get("authorization", "").removeprefix("Bearer ")
        if endpoint in {"hostname", "token"}:
            if (refused := self._check_jwt(token)) is not None:
                return refused
            if (failing := self._failing(endpoint)) is not None:
                return failing
            if endpoint == "hostname":
                return Reply(200, {}, self.host.encode())
            return Reply(200, {}, self._scoped())
        if message.host.partition(":")[0] != self.host:
            return _error(self.old_host_status, "" if self.old_host_status == 410 else "390999")
        until, host = self._tokens.get(token, (0.0, ""))
        if until < self.clock.seconds or host != self.host:
            return _error(401, "390318")
        encoding = message.headers.get("content-encoding", "")
        if endpoint == "append" and encoding == self.refused_encoding:
            return Reply(415, {}, b"<html>unsupported</html>")
        if endpoint == "append" and encoding == "gzip":
            plain = gzip.decompress(message.body)
            request = Request(
                "", request.plane, request.method, request.path, request.query, request.headers,
                zstandard.ZstdCompressor().compress(plain),
            )  # fmt: skip
        return self._answer(request)

    def _check_jwt(self, token: str) -> Reply | None:
        try:
            text = token.split(".")[1]
            claims = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (IndexError, ValueError):
            return _error(401, "390144")
        if claims["iss"].rpartition(".")[2] not in self.fingerprints:
            return _error(401, "390144")
        if abs(claims["iat"] - self.clock.seconds) > _JWT_S:
            return _error(401, "394302")
        return None

    def _scoped(self) -> bytes:
        self._made += 1
        text = f"scoped-{self._made}"
        self._tokens[text] = (self.clock.seconds + _TOKEN_S, self.host)
        return text.encode()

    def send(self, *_: object, **__: object) -> Reply:
        """Unused: requests come as bytes."""
        raise NotImplementedError


def card(row: Row) -> int:
    """The number of the swipe that a row is of; -1 for a door event."""
    return int(row["card_raw"], 16) & 0xFFFFFFFF if "card_raw" in row else -1


def swipes(landed: Iterable[Landed]) -> list[Row]:
    """The rows of swipes; the others are of the pipe for door events."""
    return [one.row for one in landed if "card_raw" in one.row]


def door_events(landed: Iterable[Landed]) -> list[Row]:
    """The rows of the pipe for door events, without heartbeats."""
    return [one.row for one in landed if "card_raw" not in one.row and one.row["kind"] != "heartbeat"]


def _error(status: int, code: str) -> Reply:
    return Reply(status, {}, json.dumps({"code": code, "message": "no"}).encode() if code else b"")
