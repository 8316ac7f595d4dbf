"""A web server for one page on the loopback interface; the only importer of http.server."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

from agent.cli.page.html import POLICY

_ADDRESS = "127.0.0.1"
# Through `ssh -L` the port may be another one, so the name alone decides.
_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})
_REQUEST_TIMEOUT_S = 10.0
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": POLICY,
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",  # the address has the token
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class PageServer:
    """Serves `page()` under a path that has the token; every other request gets an error without content."""

    def __init__(self, port: int, token: str, page: Callable[[], str]) -> None:
        """Listen; serve() answers. Raises OSError."""
        path = f"/{token}/"

        class Handler(_Handler):
            expected = path.encode()
            make = staticmethod(page)

        self._server = _LoopbackServer((_ADDRESS, port), Handler)
        self.port: int = self._server.server_address[1]
        self.url = f"http://{_ADDRESS}:{self.port}{path}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.server_close()

    def serve(self) -> None:
        """Answer requests until stop(), or an exception in this thread."""
        self._server.serve_forever()

    def stop(self) -> None:
        """End serve(), from another thread."""
        self._server.shutdown()


class _LoopbackServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A browser that goes away is no error, and a traceback could have the token."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _REQUEST_TIMEOUT_S
    server_version, sys_version = "badge-agent", ""
    expected = b""

    @staticmethod
    def make() -> str:
        raise NotImplementedError

    def do_GET(self) -> None:
        host = self.headers.get("Host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        if name.lower() not in _HOSTS:
            # A name of another site that leads here (DNS rebinding): its scripts could read the answer.
            self._answer(HTTPStatus.MISDIRECTED_REQUEST)
        elif not hmac.compare_digest(self.path.encode(errors="replace"), self.expected):
            self._answer(HTTPStatus.NOT_FOUND)
        else:
            self._answer(HTTPStatus.OK, self.make())

    def _answer(self, status: HTTPStatus, text: str = "") -> None:
        content = text.encode(errors="replace")
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answers to malformed requests, as all others."""
        del message, explain
        self._answer(HTTPStatus(code))

    def log_message(self, *_: object) -> None:
        """Log nothing: the address has the token."""
