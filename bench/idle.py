"""What an idle door costs: requests, flushes and bytes on the wire, with heartbeats and without."""

from __future__ import annotations

import select
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from bench.figures import Figure
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess, make_certificate
from tests.support.swipes import wait_until

# Longer than a connection is kept, and than a scoped token is valid here: as in an hour of a real door, each
# heartbeat needs a new connection, a new token and the ingest host.
_INTERVAL_MINUTES, _TOKEN_S = 0.7, 30
_BEATS = 3
_QUIET_S = 60.0
_PER_DAY = 24
_FIRST = "from agent.service import heartbeats; heartbeats._FIRST_AFTER_S = 1.0"


class _Relay:
    """Forwards connections to the emulator, and counts what passes in both directions."""

    def __init__(self, port: int) -> None:
        self.bytes = self.connections = 0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._forward, args=(near,), daemon=True).start()

    def _forward(self, near: socket.socket) -> None:
        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            other = {near: far, far: near}
            while True:
                for ready in select.select([near, far], [], [])[0]:
                    content = ready.recv(65_536)
                    self.bytes += len(content)
                    if not content:
                        return
                    other[ready].sendall(content)

    def close(self) -> None:
        self._listener.close()


def run() -> list[Figure]:
    """Some heartbeats of a real agent over TLS, then a minute of one without."""
    requests, size, flushes = _heartbeats()
    quiet = _without_heartbeats()
    return [
        Figure("a heartbeat: requests", f"{requests:.1f}", "<= 6", requests <= 6),  # noqa: PLR2004 - as shown
        Figure("a heartbeat: bytes of TCP, with TLS", f"{size / 1e3:.1f} kB", "<= 20 kB", size <= 20_000),  # noqa: PLR2004
        Figure("a heartbeat: flushes", f"{flushes:.1f}", "= 0", flushes == 0),
        Figure("heartbeat_minutes = 60: requests a day", f"{_PER_DAY * requests:.0f}"),
        Figure("heartbeat_minutes = 60: bytes a day", f"{_PER_DAY * size / 1e3:.0f} kB"),
        Figure(f"heartbeat_minutes = 0: requests in {_QUIET_S:.0f} s", str(quiet), "= 0", quiet == 0),
    ]


@contextmanager
def _door(heartbeat_minutes: float) -> Iterator[tuple[EmulatorProcess, _Relay, AgentProcess]]:
    with tempfile.TemporaryDirectory() as name, PtyReader(Path(name) / "reader") as reader:
        directory = Path(name)
        authority, certificate, key = make_certificate(directory)
        options = [f"--scoped-token-seconds={_TOKEN_S}"]
        with EmulatorProcess(directory / "pipe", tls=(certificate, key), options=options) as emulator:
            relay = _Relay(urlsplit(emulator.url).port or 0)
            agent = AgentProcess(
                directory / "agent",
                url=f"https://127.0.0.1:{relay.port}",
                private_key_file=emulator.private_key_file,
                readers=[reader_table(reader.device)],
                heartbeat_minutes=heartbeat_minutes,
                but_first=_FIRST,
            )
            text = agent.config.read_text()
            agent.config.write_text(text.replace("[snowflake]", f'[snowflake]\nca_file = "{authority}"'))
            with agent:
                yield emulator, relay, agent
            relay.close()


def _requests(emulator: EmulatorProcess) -> int:
    return sum(one["count"] for one in emulator.state()["requests"].values())


def _beats(emulator: EmulatorProcess) -> int:
    return sum(row["kind"] == "heartbeat" for row in emulator.rows("RAW_DOOR_EVENTS"))


def _heartbeats() -> tuple[float, float, float]:
    """Requests, bytes and flushes of one heartbeat, from some."""
    with _door(_INTERVAL_MINUTES) as (emulator, relay, agent):
        _after(emulator, 1)
        before = _requests(emulator), relay.bytes, agent.status()["disk"]["flushes"]
        _after(emulator, 1 + _BEATS)
        after = _requests(emulator), relay.bytes, agent.status()["disk"]["flushes"]
    requests, size, flushes = ((now - then) / _BEATS for now, then in zip(after, before, strict=True))
    return requests, size, flushes


def _after(emulator: EmulatorProcess, count: int) -> None:
    """Return when so many heartbeats have arrived, and what follows them."""
    wait_until(lambda: _beats(emulator) >= count, what=f"{count} heartbeats", timeout_s=300.0)
    time.sleep(5.0)


def _without_heartbeats() -> int:
    with _door(0) as (emulator, _, agent):
        wait_until(lambda: bool(emulator.rows("RAW_DOOR_EVENTS")), what="the events of the start")
        agent.status()
        time.sleep(320.0)  # until the last error count is final
        before = _requests(emulator)
        time.sleep(_QUIET_S)
        return _requests(emulator) - before
