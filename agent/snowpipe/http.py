"""HTTP requests over kept-alive connections; with connection.py the only importer of http.client."""

from __future__ import annotations

import http.client
import platform
import select
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from agent import __version__
from agent.clock.system_clock import boottime_s
from agent.errors import OutcomeUnknownError, UnreachableError
from agent.snowpipe.connection import MAX_ANSWER_BYTES, Dialer, LimitedSocket, Limits, Proxy, TooLongError
from agent.snowpipe.connection import unacknowledged_bytes as unacknowledged
from agent.snowpipe.connection import via as via_words
from agent.snowpipe.wire import Reply, Request

# The deadline of a whole exchange (name, connect, send, headers, body): this plus what the body needs at the
# slowest rate worth waiting for, that of a throttled mobile network.
_EXCHANGE_S = 60.0
_SLOWEST_BYTES_PER_S = 20_000
# A NAT drops the state of an idle connection silently; home routers after a minute or later.
_IDLE_S = 30.0
_LARGEST_BODY_BYTES = 4 * 1024 * 1024
# The longest that send() takes.
LONGEST_REQUEST_S = _EXCHANGE_S + _LARGEST_BODY_BYTES / _SLOWEST_BYTES_PER_S

_READ_BYTES = 65_536
_SWITCHING_PROTOCOLS = 101
_NETWORK_HINT = "rows wait in the outbox; check the network at the door, then: badge-agent check"

_HEADERS = {
    "User-Agent": f"badge-agent/{__version__} ({platform.system()}-{platform.machine()}) "
    f"PYTHON/{platform.python_version()} (app=badge-agent)",
    "Accept": "application/json",  # without it the service answers 391902
    "Accept-Encoding": "identity",  # a compressed answer could be any size
    "Connection": "keep-alive",
}
# Without version and system: the server need not know them.
_ANONYMOUS_HEADERS = {"User-Agent": "badge-agent", "Accept-Encoding": "identity", "Connection": "close"}


@dataclass(slots=True)
class _Kept:
    """An open connection to `origin`, idle since `idle_since` of the boot-time clock."""

    origin: str
    socket: LimitedSocket
    idle_since: float


class Http:
    """Sends requests, one at a time. Not thread-safe. Takes no setting from the environment."""

    def __init__(self, *, ca_file: Path | None, proxy: Proxy | None = None) -> None:
        """`ca_file` has additional certificate authorities, and is read at the first connection."""
        self.dialer = Dialer(ca_file, proxy)
        self._kept: dict[str, _Kept] = {}
        weakref.finalize(self, _close_all, self._kept).atexit = False

    def send(self, base_url: str, request: Request, *, token: str, token_type: str) -> Reply:
        """One try. Raises UnreachableError if nothing was sent, OutcomeUnknownError if no full answer came.

        An answer is returned whatever its status. Redirects are not followed: a token must not be sent
        to a host that the account did not name.
        """
        return self._send(base_url, request, _head(base_url, request, token, token_type))

    def get(self, url: str, what: str) -> int:
        """GET a URL without credentials; returns the HTTP status. Raises as send(); messages say `what`."""
        parts = urlsplit(url)
        base_url = f"{parts.scheme}://{parts.netloc}"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        head = {"Host": parts.netloc, **_ANONYMOUS_HEADERS}
        return self._send(base_url, Request(what, "control", "GET", path), head).status

    def _send(self, base_url: str, request: Request, head: dict[str, str]) -> Reply:
        body_bytes = len(request.body)
        allowed_s = _EXCHANGE_S + body_bytes / _SLOWEST_BYTES_PER_S
        limits = Limits(time.monotonic() + allowed_s)
        connection = self._connection(base_url, request, limits)
        try:
            with self._translated(request, base_url, connection, allowed_s):
                reply, is_reusable = _exchange(connection, request, head)
        except BaseException:
            connection.close()
            raise
        # After "close" the server closes it, without saying so in its answer.
        if is_reusable and head["Connection"] == "keep-alive":
            self._kept[base_url] = _Kept(base_url, connection, boottime_s())
        else:
            connection.close()
        return reply

    def via(self, base_url: str) -> str:
        """The words that name the proxy used for a URL; empty for none."""
        return via_words(self.dialer.proxy_for(urlsplit(base_url)))

    def close(self) -> None:
        """Close the connections."""
        _close_all(self._kept)

    def _connection(self, base_url: str, request: Request, limits: Limits) -> LimitedSocket:
        kept = self._kept.pop(base_url, None)
        if kept is not None:
            if boottime_s() - kept.idle_since <= _IDLE_S and not _has_input(kept.socket):
                kept.socket.limits = limits
                return kept.socket
            kept.socket.close()
        try:
            return self.dialer.connect(urlsplit(base_url), limits)
        except UnreachableError as error:
            raise UnreachableError(f"{request.what}: {error}", hint=error.hint) from error

    @contextmanager
    def _translated(
        self, request: Request, base_url: str, connection: LimitedSocket, allowed_s: float
    ) -> Iterator[None]:
        """Translate what happens after the connection: from here on the request may have been processed."""
        try:
            yield
        except _FAILURES as error:
            cause = error
        else:
            return
        match cause:
            case TooLongError():
                reason = "the answer does not end"
            case TimeoutError() if time.monotonic() < connection.limits.ends_at:
                reason = "the connection is silent"
            case TimeoutError():
                reason = f"no complete answer within {allowed_s:.0f} s"
            case _UnusableError():
                reason = str(cause)
            case _:
                reason = "the connection broke"
        body_bytes = len(request.body)
        sent = connection.limits.sent - unacknowledged(connection)
        raise OutcomeUnknownError(
            f"{request.what} ({base_url}{self.via(base_url)}): {reason}",
            hint=_NETWORK_HINT,
            sent_bytes=max(0, min(sent, body_bytes)),
            body_bytes=body_bytes,
        ) from cause


class _UnusableError(Exception):
    """The answer is HTTP, but none that can be used; the message says why."""


# What sockets, TLS and the parser of http.client raise for a broken connection or a malformed answer.
_FAILURES = (OSError, http.client.HTTPException, ValueError, OverflowError, MemoryError, _UnusableError)


def _head(base_url: str, request: Request, token: str, token_type: str) -> dict[str, str]:
    return {
        "Host": urlsplit(base_url).netloc,
        **_HEADERS,
        **request.headers,
        "Authorization": f"Bearer {token}",
        "X-Snowflake-Authorization-Token-Type": token_type,
        **({"Content-Length": str(len(request.body))} if request.method in {"POST", "PUT"} else {}),
    }


def _exchange(connection: LimitedSocket, request: Request, head: dict[str, str]) -> tuple[Reply, bool]:
    """Send a request and read the whole answer; whether the connection can be used again."""
    exchange = http.client.HTTPConnection("")  # connected already: it only writes and parses
    exchange.sock = connection
    query = f"?{urlencode(request.query)}" if request.query else ""
    exchange.putrequest(request.method, request.path + query, skip_host=True, skip_accept_encoding=True)
    for name, value in head.items():
        exchange.putheader(name, value)
    exchange.endheaders()
    connection.limits.sent = 0  # counts the body only
    # A server may refuse a body before its end, with an answer that is still readable.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(request.body)
    response = exchange.getresponse()
    try:
        _skip_interim(response)
        body = _read(response)
        is_reusable = not response.will_close and connection.limits.sent == len(request.body)
    finally:
        response.close()
    headers = {name.lower(): value for name, value in response.headers.items()}
    return Reply(response.status, headers, body), is_reusable


def _skip_interim(response: http.client.HTTPResponse) -> None:
    """Read on up to the final answer (RFC 9110, 15.2): http.client skips 100 only.

    Otherwise the final answer would be read as that to the next request.
    """
    while 100 <= response.status < 200:  # noqa: PLR2004 - the class of interim answers
        if response.status == _SWITCHING_PROTOCOLS:
            raise _UnusableError("the answer switches to another protocol")
        response.headers = None  # type: ignore[assignment]  # begin() parses the next answer only then
        response.begin()


def _read(response: http.client.HTTPResponse) -> bytes:
    """The body, as it is framed. Raises _UnusableError for an encoding that was not asked for."""
    encodings = response.headers.get_all("Content-Encoding", [])
    if any(encoding.strip().lower() not in {"", "identity"} for encoding in encodings):
        raise _UnusableError("the answer is compressed, which was not asked for")
    transfer = response.headers.get_all("Transfer-Encoding", [])
    if [coding.strip().lower() for coding in transfer] not in ([], ["chunked"]):
        raise _UnusableError("the answer has an unknown transfer coding")
    expected = response.length  # None if chunked, or until the end of the connection
    if expected is not None and expected > MAX_ANSWER_BYTES:
        raise TooLongError
    body = b""
    while piece := response.read(_READ_BYTES):
        body += piece
        if len(body) > MAX_ANSWER_BYTES:
            raise TooLongError
    if expected is not None and len(body) < expected:
        raise _UnusableError("the answer was cut short")
    return body


def _has_input(connection: LimitedSocket) -> bool:
    """True if the server closed the connection or sent something: it cannot be used for a request."""
    try:
        return bool(select.select([connection], [], [], 0)[0])
    except (OSError, ValueError):
        return True


def _close_all(kept: dict[str, _Kept]) -> None:
    while kept:
        kept.popitem()[1].socket.close()
