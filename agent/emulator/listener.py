"""HTTP on a loopback port: the emulator's only importer of aiohttp."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from traceback import extract_tb

from aiohttp import ClientError, web

from agent.emulator.endpoints import Request
from agent.emulator.request_bodies import MAX_WIRE_BYTES, too_large
from agent.emulator.responses import Answer, RawAnswer, RefusalError, malformed
from agent.errors import AgentError

_BACKLOG = 4096  # 2,000 doors that reconnect together after an outage

# How long requests in progress may take during shutdown before they are cancelled.
_SHUTDOWN_SECONDS = 1.0

# A short delay: the answer to the request that causes it may be sent on one of these connections.
_CUT_AFTER_SECONDS = 0.05

_INTERNAL_ERROR = RefusalError(
    500, "ERR_GENERAL_EXCEPTION_RETRY_REQUEST", "The emulator failed; see its log."
)

_log = logging.getLogger(__name__)

Respond = Callable[[Request], Awaitable[Answer | RawAnswer | None]]


class Listener:
    """A listening socket that can refuse connections for some time while keeping its port."""

    def __init__(self, host: str, port: int, respond: Respond, tls: ssl.SSLContext | None) -> None:
        self._host = host
        self._respond = respond
        self._tls = tls
        self._socket = _bound(host, port)
        self.port: int = self._socket.getsockname()[1]
        # aiohttp answers malformed HTTP with 400; its log line would quote the request.
        silent = logging.getLogger(f"{__name__}.malformed")
        silent.disabled = True
        self._server = web.Server(self._handle, auto_decompress=False, access_log=None, logger=silent)
        self._listening: asyncio.Server | None = None
        self._reopening: asyncio.TimerHandle | None = None

    @property
    def accepting(self) -> bool:
        """Whether connections are accepted."""
        return self._listening is not None

    async def accept(self) -> None:
        """Accept connections."""
        self._forget_timer()
        if self._listening is None:
            loop = asyncio.get_running_loop()
            self._listening = await loop.create_server(
                self._server, sock=self._socket, ssl=self._tls, backlog=_BACKLOG
            )

    async def refuse(self, seconds: float | None) -> None:
        """Refuse connections for `seconds`, or until accept(), and close the open ones."""
        self._forget_timer()
        loop = asyncio.get_running_loop()
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            # Bound again but not listening: connections are refused, and no other process gets the port.
            self._socket = _bound(self._host, self.port)
            loop.call_later(_CUT_AFTER_SECONDS, self._cut)
        if seconds is not None:
            self._reopening = loop.call_later(seconds, lambda: loop.create_task(self.accept()))

    async def close(self) -> None:
        """Stop listening and close every connection."""
        self._forget_timer()
        if self._listening is not None:
            self._listening.close()
        self._listening = None
        self._socket.close()
        self._cut()
        await self._server.shutdown(_SHUTDOWN_SECONDS)

    def _forget_timer(self) -> None:
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None

    def _cut(self) -> None:
        if self._listening is None:
            for connection in self._server.connections:
                if connection.transport is not None:
                    connection.transport.close()

    async def _handle(self, incoming: web.BaseRequest) -> web.StreamResponse:
        try:
            answer = await self._respond(_request(incoming))
        except Exception as error:  # noqa: BLE001 - a defect here must not leave the client without an answer
            # Only its type and location: the message of a library's exception may quote a row.
            place = extract_tb(error.__traceback__)[-1]
            _log.error("%s at %s:%s", type(error).__name__, place.filename, place.lineno)
            answer = _INTERNAL_ERROR.answer()
        if answer is None:
            if isinstance(incoming.transport, asyncio.Transport):
                incoming.transport.abort()
            return web.Response()  # never sent
        if isinstance(answer, RawAnswer):
            await _write_raw(incoming, answer)
            return web.Response()  # never sent
        return web.Response(
            status=answer.status,
            body=answer.body,
            headers={"Content-Type": answer.content_type, **answer.headers},
        )


async def _write_raw(incoming: web.BaseRequest, answer: RawAnswer) -> None:
    transport = incoming.transport
    for piece in answer.pieces:
        if transport is None or transport.is_closing():
            return
        transport.write(piece)
        await asyncio.sleep(answer.pause_s)
    if transport is not None:
        transport.close()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise AgentError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="Another program may hold the port: choose another one, or --port 0 for any that is free.",
        ) from error
    return bound


def _request(incoming: web.BaseRequest) -> Request:
    arrived_ns = time.monotonic_ns()
    path, _, query = incoming.raw_path.partition("?")
    return Request(
        method=incoming.method,
        path=path,
        query=query,
        headers={name.lower(): value for name, value in incoming.headers.items()},
        arrived_ns=arrived_ns,
        read=lambda: _read(incoming),
    )


async def _read(incoming: web.BaseRequest) -> bytes:
    """The whole body. Raises RefusalError (413, 400), ConnectionError if the client disconnected."""
    if (incoming.content_length or 0) > MAX_WIRE_BYTES:
        raise too_large(f"more than {MAX_WIRE_BYTES} bytes on the wire")
    if incoming.headers.get("Expect", "").lower() == "100-continue" and incoming.transport is not None:
        incoming.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    parts: list[bytes] = []
    size = 0
    try:
        while part := await incoming.content.readany():
            size += len(part)
            if size > MAX_WIRE_BYTES:
                raise too_large(f"more than {MAX_WIRE_BYTES} bytes on the wire")
            parts.append(part)
    except RefusalError:
        raise
    except (web.RequestPayloadError, ClientError, ValueError):
        raise malformed("The body does not end as its headers say.") from None
    return b"".join(parts)
