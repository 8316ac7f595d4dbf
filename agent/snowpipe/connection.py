"""Connections to a server: every address of a name, an HTTP proxy, TLS; the limits of one exchange.

The limits are enforced in the socket, below http.client: no header, chunk or byte a second escapes them.
"""

from __future__ import annotations

import base64
import http.client
import re
import socket
import ssl
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from agent.errors import ConfigError, NotPermittedError, UnreachableError
from agent.keys.secret_file import read_secret
from agent.snowpipe import certificates
from agent.snowpipe.name_resolution import Address, Resolver

try:
    import fcntl
    import termios
except ModuleNotFoundError:  # not on Linux: send-sample runs anywhere
    _QUEUED = None
else:
    _QUEUED = (fcntl.ioctl, termios.TIOCOUTQ)  # tcp(7): SIOCOUTQ

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

# A dead address, often IPv6 behind a router without it, must not use up the deadline: each gets the first
# of these; those that timed out get the second, for slow mobile networks.
_CONNECT_S = (2.5, 10.0)
# Three name servers, two attempts of 5 s each, as resolv.conf(5) has it by default.
_RESOLVE_S = 30.0
# A connection without any progress for this long is given up.
_SILENCE_S = 30.0
_HANDSHAKE_S = 30.0
# The largest answer of the API is a channel status of about 1 kB.
MAX_ANSWER_BYTES = 1 << 20
# Head, chunk lines, trailers and interim answers in addition to the answer itself.
_MAX_RECEIVED_BYTES = MAX_ANSWER_BYTES + 256 * 1024
_PIECE_BYTES = 64 * 1024

_HTTP_PORT, _HTTPS_PORT = 80, 443
_LOGIN = re.compile(rb"[^:\x00-\x1f\x7f]{1,255}:[^\x00-\x1f\x7f]{0,255}")
_NETWORK_HINT = "rows wait in the outbox; check the network at the door, then: badge-agent check"


class TooLongError(OSError):
    """The answer has more bytes than any answer of the API."""


@dataclass(slots=True)
class Limits:
    """What one exchange may take; `ends_at` is in seconds of time.monotonic()."""

    ends_at: float
    sent: int = 0
    received: int = 0

    def timeout_s(self, longest_s: float = _SILENCE_S) -> float:
        """The timeout of the next operation. Raises TimeoutError after the deadline."""
        left = self.ends_at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return min(left, longest_s)

    def count_received(self, size: int) -> int:
        """Count received bytes. Raises TooLongError above the limit."""
        self.received += size
        if self.received > _MAX_RECEIVED_BYTES:
            raise TooLongError
        return size


class LimitedSocket(socket.socket):
    """A TCP socket within limits."""

    limits = Limits(0.0)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int | None = 0, flags: int = 0) -> int:
        """Receive within the limits."""
        self.settimeout(self.limits.timeout_s())
        return self.limits.count_received(
            super().recv_into(buffer, nbytes or memoryview(buffer).nbytes, flags)
        )

    def sendall(self, data: ReadableBuffer, flags: int = 0) -> None:
        """Send within the limits, in pieces, so that the count is right when one fails."""
        view = memoryview(data).cast("B")
        while view:
            self.settimeout(self.limits.timeout_s())
            sent = super().send(view[:_PIECE_BYTES], flags)
            self.limits.sent += sent
            view = view[sent:]


class TlsSocket(LimitedSocket, ssl.SSLSocket):
    """A TLS socket within limits."""


def unacknowledged_bytes(connection: LimitedSocket) -> int:
    """Bytes in the send buffer that the peer has not acknowledged; 0 if the system does not report it."""
    if _QUEUED is None:
        return 0
    ioctl, queued = _QUEUED
    count = bytearray(4)
    try:
        ioctl(connection.fileno(), queued, count)
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy for https connections; the login is read from its file at every CONNECT."""

    url: str
    login_file: Path | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _HTTP_PORT


def address_of(url: SplitResult) -> tuple[str, int]:
    """Host and port of an http or https URL."""
    return url.hostname or "", url.port or (_HTTP_PORT if url.scheme == "http" else _HTTPS_PORT)


@dataclass(slots=True)
class Dialer:
    """Opens connections. Remembers per name the address that answered, and tries it first."""

    ca_file: Path | None = None
    proxy: Proxy | None = None
    _context: ssl.SSLContext | None = field(default=None, init=False)
    _resolver: Resolver = field(default_factory=Resolver, init=False)
    _good: dict[tuple[str, int], object] = field(default_factory=dict, init=False)

    def context(self) -> ssl.SSLContext:
        """The TLS context, for the agent and for `check`. Raises ConfigError for an unusable `ca_file`."""
        if self._context is None:
            self._context = certificates.context(self.ca_file)
            self._context.sslsocket_class = TlsSocket
        return self._context

    def proxy_for(self, url: SplitResult) -> Proxy | None:
        """The proxy of a URL. Plain http goes to loopback only, and so never through a proxy."""
        return self.proxy if url.scheme == "https" else None

    def connect(self, url: SplitResult, limits: Limits) -> LimitedSocket:
        """A connection ready for a request. Raises UnreachableError: nothing of a request was sent."""
        proxy = self.proxy_for(url)
        try:
            connection = self.open_tcp(*(proxy.address if proxy else address_of(url)), limits)
        except UnreachableError as error:
            if proxy:
                raise UnreachableError(
                    f"the proxy {proxy.url} cannot be reached: {error}",
                    hint=f"check [snowflake] proxy: curl -v {proxy.url}",
                ) from error
            raise
        try:
            if proxy:
                _tunnel(connection, proxy, address_of(url))
            return connection if url.scheme == "http" else self._secured(connection, url)
        except BaseException:
            connection.close()
            raise

    def open_tcp(self, host: str, port: int, limits: Limits) -> LimitedSocket:
        """A TCP connection to any address of a host. Raises UnreachableError."""
        good = self._good.get((host, port))
        left = sorted(self.resolve(host, port, limits), key=lambda address: address[3] != good)
        failure = OSError("no address")
        for longest_s in _CONNECT_S:
            timed_out = []
            for address in left:
                try:
                    return self._open_address(host, port, address, limits, longest_s)
                except TimeoutError:
                    failure = OSError("no answer")
                    timed_out.append(address)
                except OSError as error:
                    failure = error
            left = timed_out
        raise UnreachableError(
            f"no connection to {host} port {port}: {failure.strerror or failure}", hint=_NETWORK_HINT
        ) from failure

    def resolve(self, host: str, port: int, limits: Limits) -> list[Address]:
        """The addresses of a host. Raises UnreachableError."""
        try:
            return self._resolver.lookup(host, port, limits.timeout_s(_RESOLVE_S))
        except TimeoutError as error:
            reason: str | None = "the name server does not answer"
            cause: Exception = error
        except (OSError, UnicodeError) as error:
            reason, cause = getattr(error, "strerror", None), error
        raise UnreachableError(
            f"no address for {host}: {reason or 'not a host name'}",
            hint=f"check the network and the spelling of the account: getent hosts {host}; ip route",
        ) from cause

    def _open_address(
        self, host: str, port: int, address: Address, limits: Limits, longest_s: float
    ) -> LimitedSocket:
        family, kind, protocol, target = address
        connection = LimitedSocket(family, kind, protocol)
        try:
            connection.settimeout(limits.timeout_s(longest_s))
            connection.connect(target)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except BaseException:
            connection.close()
            raise
        connection.limits = limits
        self._good[host, port] = target
        return connection

    def _secured(self, connection: LimitedSocket, url: SplitResult) -> TlsSocket:
        host, port = address_of(url)
        limits = connection.limits
        connection.settimeout(limits.timeout_s(_HANDSHAKE_S))
        try:
            context = self.context()
        except ConfigError as error:
            # The file may be corrected while rows wait: it is read again at the next try.
            raise UnreachableError(str(error), hint=error.hint) from error
        try:
            # Without an end of TLS an answer until the end of the connection may be cut short.
            secure = context.wrap_socket(connection, server_hostname=host, suppress_ragged_eofs=False)
        except (OSError, ValueError) as error:  # ValueError: a name that no certificate can contain
            raise UnreachableError(
                f"TLS with {host} port {port}{via(self.proxy_for(url))} failed: {certificates.reason(error)}",
                hint=certificates.hint(error, host, port),
            ) from error
        assert isinstance(secure, TlsSocket)  # noqa: S101 - for the type checker: see context()
        secure.limits = limits
        return secure


def via(proxy: Proxy | None) -> str:
    """The words that name the proxy in a message; empty for none."""
    return f" through the proxy {proxy.url}" if proxy else ""


# --- proxies --------------------------------------------------------------------------------


def _tunnel(connection: LimitedSocket, proxy: Proxy, target: tuple[str, int]) -> None:
    """CONNECT through the proxy (RFC 9110, 9.3.6). Raises UnreachableError."""
    host, port = target
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
    if proxy.login_file is not None:
        head += f"Proxy-Authorization: Basic {_login(proxy, proxy.login_file)}\r\n"
    response = http.client.HTTPResponse(connection, method="CONNECT")
    try:
        connection.sendall(head.encode("idna" if not head.isascii() else "ascii") + b"\r\n")
        response.begin()
    except TimeoutError as error:
        raise UnreachableError(
            f"the proxy {proxy.url} does not answer", hint=f"check [snowflake] proxy: curl -v {proxy.url}"
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise UnreachableError(
            f"the proxy {proxy.url} closed the connection, or is no HTTP proxy",
            hint=f"check [snowflake] proxy, its port too: curl -v {proxy.url}",
        ) from error
    finally:
        response.close()
    if not 200 <= response.status < 300:  # noqa: PLR2004 - the class of success, RFC 9110 15.3
        text, hint = _proxy_refusal(response.status, authority, has_login=proxy.login_file is not None)
        raise UnreachableError(f"the proxy {proxy.url} {text} (HTTP {response.status})", hint=hint)


def _proxy_refusal(status: int, authority: str, *, has_login: bool) -> tuple[str, str]:
    match status:
        case 407 if has_login:
            return "refuses the login", "correct the line user:password in [snowflake] proxy_login_file"
        case 407:
            return (
                "demands a login",
                "write user:password into a file, mode 0600: [snowflake] proxy_login_file",
            )
        case 403:
            return f"does not allow {authority}", f"ask its operator to allow CONNECT to {authority}"
        case 502 | 503 | 504:
            return f"cannot reach {authority}", "check the proxy's own connection to the internet and its DNS"
        case _:
            return f"refuses CONNECT to {authority}", "is this an HTTP proxy that allows CONNECT?"


def _login(proxy: Proxy, path: Path) -> str:
    try:
        login = read_secret(path, "proxy login")
    except (ConfigError, NotPermittedError) as error:
        raise UnreachableError(f"the proxy {proxy.url} demands a login: {error}", hint=error.hint) from error
    if not _LOGIN.fullmatch(login):
        raise UnreachableError(
            f"{path}: is not a login for the proxy {proxy.url}", hint="write one line: user:password"
        )
    return base64.b64encode(login).decode()
