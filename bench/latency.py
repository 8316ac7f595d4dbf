"""Latency from a swipe's last byte on the serial line to its request at the server, with an idle agent."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, percentile
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.swipes import wait_until

_SWIPES = 300
_P50_MS, _P99_MS = 15.0, 60.0


def run() -> list[Figure]:
    """A real agent, a real pty and the emulator, each in its own process on this machine."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with (
            EmulatorProcess(directory / "emulator") as emulator,
            PtyReader(directory / "reader") as reader,
            AgentProcess(
                directory / "agent",
                url=emulator.url,
                private_key_file=emulator.private_key_file,
                readers=[reader_table(reader.device)],
            ) as agent,
        ):
            delays_ms = [_one(emulator, reader, agent, tag) for tag in range(1, _SWIPES + 1)]
    p50, p99 = percentile(delays_ms, 50), percentile(delays_ms, 99)
    return [
        Figure(f"p50 of {_SWIPES} swipes", f"{p50:.1f} ms", f"<= {_P50_MS:.0f} ms", p50 <= _P50_MS),
        Figure(f"p99 of {_SWIPES} swipes", f"{p99:.1f} ms", f"<= {_P99_MS:.0f} ms", p99 <= _P99_MS),
    ]


def _one(emulator: EmulatorProcess, reader: PtyReader, agent: AgentProcess, tag: int) -> float:
    wait_until(lambda: agent.outbox().pending == 0, what="an idle agent")
    time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 - not in phase with the agent's timers
    written_ns = time.monotonic_ns()
    reader.present(tag)
    arrived_ns = 0

    def arrived() -> bool:
        nonlocal arrived_ns
        arrived_ns = emulator.state()["last_append_ns"] or 0
        return arrived_ns > written_ns

    wait_until(arrived, what="the append")
    return (arrived_ns - written_ns) / 1e6
