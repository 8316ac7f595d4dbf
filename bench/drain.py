"""Draining a backlog, and starting with one: rows a second, processor and memory of the agent's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from agent.outbox import Outbox, read_counts
from bench.figures import Figure
from bench.keep import swipe
from tests.support.agent_process import AGENT_ID, AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.swipes import wait_until

_SMALL, _LARGE = 100_000, 1_000_000
_ROWS_PER_SECOND, _CPU_S_PER_100_000 = 60_000, 0.8
_LIMIT_BYTES_PER_SECOND = 20_000_000
_PATIENCE_S = 600


@dataclass(frozen=True, slots=True)
class _Drain:
    seconds: float
    ready_s: float
    cpu_s: float
    peak_mib: float
    throttled: int
    plain_bytes_per_second: float


def run() -> list[Figure]:
    """Real agent process, real emulator process, both on this machine."""
    empty, small, large = (_drain(count, limits=False) for count in (0, _SMALL, _LARGE))
    limited = _drain(_SMALL, limits=True)
    figures = []
    for count, drain in ((_SMALL, small), (_LARGE, large)):
        rate, cpu = count / drain.seconds, drain.cpu_s * 100_000 / count
        figures += [
            Figure(
                f"{count:,} rows", f"{rate:,.0f} rows/s", f">= {_ROWS_PER_SECOND:,}", rate >= _ROWS_PER_SECOND
            ),
            Figure(
                f"{count:,} rows, processor",
                f"{cpu:.2f} s per 100,000",
                f"<= {_CPU_S_PER_100_000}",
                cpu <= _CPU_S_PER_100_000,
            ),
            Figure(f"{count:,} rows, peak memory", f"{drain.peak_mib:.0f} MiB"),
        ]
    growth = large.peak_mib / small.peak_mib
    start = large.ready_s / empty.ready_s
    share = limited.plain_bytes_per_second / _LIMIT_BYTES_PER_SECOND
    return [
        *figures,
        Figure("memory, 1,000,000 against 100,000", f"{growth:.2f}", "<= 1.10", growth <= 1.1),  # noqa: PLR2004
        Figure("READY with nothing pending", f"{empty.ready_s:.2f} s"),
        Figure("READY with 1,000,000 pending", f"{large.ready_s:.2f} s", "<= 1.5 x", start <= 1.5),  # noqa: PLR2004
        Figure("with the documented limits", f"{share:.0%} of 20 MB/s", ">= 90%", share >= 0.9),  # noqa: PLR2004
        Figure("answers 429", str(limited.throttled), "0", limited.throttled == 0),
    ]


def _drain(count: int, *, limits: bool) -> _Drain:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        directory = Path(name)
        options = () if limits else ("--no-limits",)
        with (
            EmulatorProcess(directory / "emulator", options=options) as emulator,
            PtyReader(directory / "reader") as reader,
        ):
            agent = AgentProcess(
                directory / "agent",
                url=emulator.url,
                private_key_file=emulator.private_key_file,
                readers=[reader_table(reader.device)],
            )
            fill(agent.state_dir, count)
            module = "agent" if limits else "bench.unlimited"
            arguments = ["run", "--config", str(agent.config)] if limits else [str(agent.config)]
            return _measure(emulator, agent, [sys.executable, "-m", module, *arguments], count)


def fill(state_dir: Path, count: int) -> None:
    """An outbox with so many pending rows."""
    outbox = Outbox(state_dir, agent_id=AGENT_ID)
    for first in range(0, count, 1_000):
        outbox.keep(*(swipe(number) for number in range(first, first + 1_000)))
    outbox.close()


def _measure(emulator: EmulatorProcess, agent: AgentProcess, command: list[str], count: int) -> _Drain:
    with agent.log_file.open("ab") as log:
        begun = time.monotonic()
        process = subprocess.Popen(command, stderr=log)
    wait_until(lambda: b"is ready" in agent.log_file.read_bytes(), what="READY", timeout_s=60)
    ready_s = time.monotonic() - begun
    wait_until(
        lambda: process.poll() is None and read_counts(agent.state_dir).pending == 0,
        what="a drained outbox",
        timeout_s=_PATIENCE_S,
    )
    seconds = time.monotonic() - begun - ready_s
    state = emulator.state()
    process.send_signal(signal.SIGTERM)
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # reaped above, for its usage
    seen = [request for request in state["seen"] if request["endpoint"] == "append"]
    return _Drain(
        seconds=seconds,
        ready_s=ready_s,
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_mib=usage.ru_maxrss / 1024,
        throttled=sum(request["status"] == 429 for request in state["seen"]),  # noqa: PLR2004 - HTTP
        plain_bytes_per_second=_rate(seen, count),
    )


def _rate(appends: list[dict[str, int]], rows: int) -> float:
    """Uncompressed bytes a second between the first append and the last, which is left out."""
    if len(appends) < 2:  # noqa: PLR2004 - one append has no rate
        return 0.0
    seconds = (appends[-1]["arrived_ns"] - appends[0]["arrived_ns"]) / 1e9
    wire_bytes = sum(append["bytes"] for append in appends)
    share = 1 - appends[-1]["bytes"] / wire_bytes
    return rows * _ROW_BYTES * share / seconds


_ROW_BYTES = 518
