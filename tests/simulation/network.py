"""The network of a simulated door, directly below the agent's HTTP client: sockets without a wire."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import SplitResult, parse_qsl, urlsplit

from agent.errors import UnreachableError
from agent.snowpipe.connection import Dialer, Limits
from tests.simulation.machine import Machine

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_UNCOMMITTED = b"ERR_CHANNEL_HAS_UNCOMMITTED_DATA"


class Message(NamedTuple):
    """A request as the server reads it; header names are lower-case."""

    host: str
    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Response:
    """Bytes, a pause before each piece; then the connection stays open, is silent or is closed."""

    pieces: tuple[bytes, ...]
    pause_s: float = 0.0
    ends: str = "open"  # or "closed", "silent"

    @property
    def is_success(self) -> bool:
        """Whether it begins with a status of 100 to 299."""
        return bool(self.pieces) and self.pieces[0][9:10] in {b"1", b"2"}


class Network:
    """The way to the server. `serve` processes a request."""

    def __init__(self, machine: Machine, serve: Callable[[Message], Response]) -> None:
        self.machine = machine
        self._serve = serve
        self.requests: list[float] = []  # true seconds of each
        self.last_failed = False
        self.recover()
        quiet, self._quiet_end = os.pipe()
        readable, write = os.pipe()
        os.write(write, b"x")
        os.close(write)
        self.descriptors = {False: quiet, True: readable}

    def recover(self) -> None:
        """A good network."""
        self.is_down = False
        self.way_s = 0.02
        self.bytes_per_s = 1e7
        self.takes_bytes = 1 << 40  # a request with more bytes breaks on the way
        self.loses: Callable[[], str] = str  # "", "before" or "after" the server has the request
        self.drops_idle = False

    def close(self) -> None:
        """Close the descriptors."""
        for fd in (*self.descriptors.values(), self._quiet_end):
            os.close(fd)

    def connect(self, _dialer: Dialer, url: SplitResult, limits: Limits) -> Connection:
        """In place of Dialer.connect()."""
        self.machine.advance_us(int(self.way_s * 1e6))
        if self.is_down or self.machine.disk.is_frozen:
            self.machine.advance_us(2_500_000)
            raise UnreachableError(f"no connection to {url.hostname}", hint="the network is down")
        return Connection(self, url.netloc, limits)

    def exchange(self, message: Message) -> Response:
        """The answer to a request."""
        self.requests.append(self.machine.true_us / 1e6)
        response = self._carried(message)
        is_replay = "-replay" in message.path or b"-replay" in message.body[:200]
        # To wait for what is not committed yet is what the conditional open asks for.
        waits = any(_UNCOMMITTED in piece for piece in response.pieces)
        self.last_failed = not (is_replay or waits or response.is_success)
        return response

    def _carried(self, message: Message) -> Response:
        if self.machine.disk.is_frozen or self.is_down:
            return Response((), ends="silent")
        self.machine.advance_us(int(self.way_s * 1e6))
        lost = self.loses()
        if lost == "before":
            return Response((), ends="closed")
        response = self._serve(message)
        self.machine.advance_us(int(self.way_s * 1e6))
        return Response((), ends="closed") if lost == "after" else response


class Connection:
    """A connected socket, as far as http.client and agent.snowpipe use one."""

    def __init__(self, network: Network, host: str, limits: Limits) -> None:
        self.limits = limits
        self._network = network
        self._host = host
        self._sent = bytearray()
        self._left: list[bytes] | None = None  # of the answer; None: not asked for yet
        self._pause_s, self._ends = 0.0, "open"

    def fileno(self) -> int:
        """Readable if the server has sent more or closed the connection."""
        has_input = bool(self._left) or self._ends != "open" or self._network.drops_idle
        return self._network.descriptors[has_input]

    def close(self) -> None:
        """Nothing is left to close."""

    def sendall(self, data: ReadableBuffer) -> None:
        """Send at the speed of the way."""
        if self._left is not None:  # a kept connection: another request
            self._left = None
            self._sent.clear()
        network = self._network
        content = bytes(memoryview(data))
        way = content[: max(0, network.takes_bytes - len(self._sent))]
        needs_s = len(way) / network.bytes_per_s
        allowed_s = max(0.0, self.limits.ends_at - network.machine.monotonic_s)
        network.machine.advance_us(int(min(needs_s, allowed_s) * 1e6))
        self._sent += way
        self.limits.sent += len(way)
        if needs_s > allowed_s:
            raise TimeoutError
        if len(way) < len(content):
            raise ConnectionAbortedError

    def makefile(self, _mode: str) -> io.BufferedReader:
        """As socket.makefile()."""
        return io.BufferedReader(_Raw(self), 65_536)

    def recv_into(self, buffer: WriteableBuffer) -> int:
        """The next piece of the answer, within the limits."""
        if self._left is None:
            response = self._network.exchange(self._message())
            self._left, self._pause_s, self._ends = list(response.pieces), response.pause_s, response.ends
        machine = self._network.machine
        if not self._left:
            if self._ends == "closed":
                return 0
            machine.advance_us(int(self.limits.timeout_s() * 1e6) + 1)
            raise TimeoutError
        timeout_s = self.limits.timeout_s()
        if self._pause_s > timeout_s:
            machine.advance_us(int(timeout_s * 1e6) + 1)
            raise TimeoutError
        machine.advance_us(int(self._pause_s * 1e6))
        view = memoryview(buffer).cast("B")
        piece = self._left[0]
        size = min(len(view), len(piece))
        view[:size] = piece[:size]
        if size == len(piece):
            self._left.pop(0)
        else:
            self._left[0] = piece[size:]
        return self.limits.count_received(size)

    def _message(self) -> Message:
        head, _, body = bytes(self._sent).partition(b"\r\n\r\n")
        self._sent.clear()
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        url = urlsplit(target)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Message(
            self._host, method, url.path, tuple(parse_qsl(url.query, keep_blank_values=True)), headers, body
        )


class _Raw(io.RawIOBase):
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        super().__init__()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        return self._connection.recv_into(buffer)
