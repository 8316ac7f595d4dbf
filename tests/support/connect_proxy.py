"""An HTTP proxy on loopback that carries CONNECT to a fixed server, or refuses it."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class ConnectProxy:
    """`answer` is written for each CONNECT; with a 200 the bytes are carried to `target` from then on.

    `heads` has the requests as they came.
    """

    def __init__(self, target: int | None = None, answer: bytes = b"HTTP/1.1 200 OK\r\n\r\n") -> None:
        self.heads: list[str] = []
        self._target = target
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=10)
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                head = b""
                while b"\r\n\r\n" not in head and (received := client.recv(1)):
                    head += received
                self.heads.append(head.decode())
                if head:
                    client.sendall(self._answer)
                if self._target is None:
                    client.close()
                    continue
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open.append(server)
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
