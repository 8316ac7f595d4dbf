"""Latency from a swipe's last byte on the serial line to its row on disk, and to its request."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import tempfile
import time
from pathlib import Path

from bench.figures import Figure, percentile
from bench.keep import floor
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.swipes import wait_until

_SWIPES = 300
_DURABLE_P50_MS, _DURABLE_P99_MS = 3.0, 10.0
_P50_MS, _P99_MS = 15.0, 60.0
_NEWEST = "SELECT max(n) FROM swipes"
_POLL_S = 0.0002


def run() -> list[Figure]:
    """A real agent, idle before each swipe, a real pty and the emulator, each a process on this machine.

    The state directory is on a disk, and the floor of a durable write is measured on it in the same run.
    """
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
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
            floor(directory / "floor") as write,
        ):
            floors_ms, durable_ms, sent_ms = [], [], []
            for tag in range(1, _SWIPES + 1):
                durable, sent = _one(emulator, reader, agent, tag)
                durable_ms.append(durable)
                sent_ms.append(sent)
                begun_ns = time.monotonic_ns()
                write(tag)
                floors_ms.append((time.monotonic_ns() - begun_ns) / 1e6)
    return [
        *_figures("floor: a durable write", floors_ms, None),
        *_figures("last byte to durable", durable_ms, (_DURABLE_P50_MS, _DURABLE_P99_MS)),
        *_figures("last byte to request", sent_ms, (_P50_MS, _P99_MS)),
    ]


def _figures(name: str, times_ms: list[float], targets_ms: tuple[float, float] | None) -> list[Figure]:
    figures = []
    for place, percent in enumerate((50, 99)):
        found = percentile(times_ms, percent)
        what = f"{name}, p{percent} of {len(times_ms)}"
        if targets_ms is None:
            figures.append(Figure(what, f"{found:.1f} ms"))
        else:
            target = targets_ms[place]
            figures.append(Figure(what, f"{found:.1f} ms", f"<= {target:.0f} ms", found <= target))
    return figures


def _one(emulator: EmulatorProcess, reader: PtyReader, agent: AgentProcess, tag: int) -> tuple[float, float]:
    """Milliseconds until the row is on disk, and until the request with it arrives."""
    wait_until(lambda: agent.outbox().pending == 0, what="an idle agent")
    time.sleep(random.uniform(0.0, 0.1))  # noqa: S311 - not in phase with the agent's timers
    with contextlib.closing(sqlite3.connect(agent.state_dir / "outbox.db", isolation_level=None)) as outbox:
        (before,) = outbox.execute(_NEWEST).fetchone()
        written_ns = time.monotonic_ns()
        reader.present(tag)
        # A row is visible to another process after the flush of its commit.
        while outbox.execute(_NEWEST).fetchone() == (before,):
            time.sleep(_POLL_S)
        durable_ns = time.monotonic_ns()
    arrived_ns = 0

    def arrived() -> bool:
        nonlocal arrived_ns
        arrived_ns = emulator.state()["last_append_ns"] or 0
        return arrived_ns > written_ns

    wait_until(arrived, what="the append")
    return (durable_ns - written_ns) / 1e6, (arrived_ns - written_ns) / 1e6
