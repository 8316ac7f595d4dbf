"""A real HTTP server on loopback with scripted answers, also malformed ones."""

from __future__ import annotations

import itertools
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from agent.snowpipe.wire import Request


@dataclass(frozen=True)
class Seen:
    """A request as it arrived. Header names are lower-case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    client_port: int


@dataclass(frozen=True)
class Answer:
    """A complete answer with a Content-Length."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HangUp:
    """Close the connection after the request, without an answer."""


@dataclass(frozen=True)
class Silence:
    """Keep the connection open without an answer until the test is over."""


@dataclass(frozen=True)
class Endless:
    """Begin an answer and never end it."""

    chunk: bytes = b"x" * 65_536


@dataclass(frozen=True)
class Raw:
    """Write `head`, then `tail` byte by byte or piece by piece with pauses, again and again if `endless`."""

    head: bytes
    tail: tuple[bytes, ...] = ()
    pause_s: float = 0.0
    endless: bool = False


Scripted = Answer | HangUp | Silence | Endless | Raw


class ScriptedServer:
    """`respond` returns the answer to each request; `seen` has the requests received so far."""

    def __init__(
        self, respond: Callable[[Seen], Scripted], *, certificate: tuple[Path, Path] | None = None
    ) -> None:
        self.seen: list[Seen] = []
        self._respond = respond
        self._over = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port: int = self._server.server_address[1]
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body in one segment, or Nagle and delayed acknowledgements cost 40 ms each.
            wbufsize = -1
            disable_nagle_algorithm = True

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, ssl.SSLError):
                    self.close_connection = True  # the client went: some tests make it do so

            def finish(self) -> None:
                try:
                    super().finish()
                except (ConnectionError, ssl.SSLError):
                    self.close_connection = True

            def _serve(self) -> None:
                address = urlsplit(self.path)
                seen = Seen(
                    self.command,
                    address.path,
                    dict(parse_qsl(address.query)),
                    {name.lower(): value for name, value in self.headers.items()},
                    self.rfile.read(int(self.headers.get("Content-Length", 0))),
                    self.client_address[1],
                )
                server.seen.append(seen)
                server._play(server._respond(seen), self)

            do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server's own names

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        return Handler

    def _play(self, answer: Scripted, handler: BaseHTTPRequestHandler) -> None:
        match answer:
            case Answer(status, body, headers):
                handler.send_response(status)
                for name, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
                    handler.send_header(name, value)
                handler.end_headers()
                handler.wfile.write(body)
            case HangUp():
                handler.close_connection = True
            case Silence():
                self._over.wait()
                handler.close_connection = True
            case Endless(chunk):
                handler.send_response(200)
                handler.send_header("Transfer-Encoding", "chunked")
                handler.end_headers()
                while not self._over.is_set():
                    handler.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    handler.wfile.flush()
            case Raw(head, tail, pause_s, endless):
                handler.close_connection = True
                handler.wfile.write(head)
                handler.wfile.flush()
                for piece in itertools.cycle(tail) if endless else tail:
                    handler.wfile.write(piece)
                    handler.wfile.flush()
                    if self._over.wait(pause_s):
                        break


def in_turn(*answers: Scripted) -> Callable[[Seen], Scripted]:
    """One answer after the other; more requests than answers are an error of the test."""
    left = iter(answers)
    return lambda _: next(left, Answer(500, b"nothing more was expected"))


def always(answer: Scripted) -> Callable[[Seen], Scripted]:
    """The same answer to everything."""
    return lambda _: answer


ASK = Request("ask", "control", "GET", "/v2/ask")
