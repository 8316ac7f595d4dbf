"""Service start to READY=1 and `badge-agent status`, next to what Python and the libraries take alone."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from agent.keys.keypair import generate_key
from bench.figures import Figure, percentile
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.needs import SYSTEMD_PYTHON
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

_STARTS = 9
_READY_S = 1.0
_STATUS_S = 0.25
_LIBRARIES = (
    "import click, jwt, requests, serial, sqlite3, zstandard\n"
    "try: import systemd.journal\n"
    "except ImportError: pass\n"
    "from cryptography.hazmat.primitives import serialization\n"
    "from cryptography.hazmat.primitives.asymmetric import rsa"
)


def run() -> list[Figure]:
    """The first start makes the outbox and compiles what was not; those after it are measured."""
    python = _median([_python("pass") for _ in range(_STARTS)])
    libraries = _median([_python(_LIBRARIES) for _ in range(_STARTS)])
    imports = _median([_python("import agent.cli.run, agent.service.supervisor") for _ in range(_STARTS)])
    floors = [
        Figure("floor: python3 -c pass", f"{python:.2f} s"),
        Figure("floor: and the libraries' imports", f"{libraries:.2f} s"),
        Figure("and the agent's own", f"{imports:.2f} s"),
    ]
    with tempfile.TemporaryDirectory() as name:
        status = [_status(Path(name)) for _ in range(_STARTS + 1)][1:]
    took, cpu = (_median(list(times)) for times in zip(*status, strict=True))
    target = f"<= {_STATUS_S} s"
    floors.append(Figure("badge-agent status", f"{took:.2f} s", target, took <= _STATUS_S))
    # What it takes on a machine that has something else to do, too, is the wait for a processor as well.
    floors.append(Figure("processor time of that", f"{cpu:.2f} s"))
    if not SYSTEMD_PYTHON.is_met():
        return [*floors, Figure("READY", "not measured: systemd-python is not installed")]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        generate_key(directory / "rsa_key.p8")
        with PtyReader(directory / "reader") as reader:
            ready = _median([_ready(directory, reader, number) for number in range(_STARTS + 1)][1:])
    return [
        *floors,
        Figure(
            f"READY, median of {_STARTS} starts", f"{ready:.2f} s", f"<= {_READY_S:.1f} s", ready <= _READY_S
        ),
    ]


def _python(code: str) -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - begun


def _status(directory: Path) -> tuple[float, float]:
    """Seconds of a clock, and of the processor."""
    agent = AgentProcess(
        directory,
        url="http://127.0.0.1:9",  # the discard port: no listener
        private_key_file=directory / "no-key.p8",
        readers=[reader_table(directory / "reader")],
    )
    words = [sys.executable, "-m", "agent", "status", "--config", str(agent.config)]
    begun, cpu_before = time.perf_counter(), _cpu_of_children_s()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=False)  # 1: no agent runs
    return time.perf_counter() - begun, _cpu_of_children_s() - cpu_before


def _cpu_of_children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ready(directory: Path, reader: PtyReader, number: int) -> float:
    with ServiceManager(directory / f"manager-{number}") as manager:
        agent = AgentProcess(
            directory / "door",
            url="http://127.0.0.1:9",  # the discard port: no listener
            private_key_file=directory / "rsa_key.p8",
            readers=[reader_table(reader.device)],
            under=manager,
        )
        begun = time.perf_counter()
        agent.start(wait=False)
        wait_until(lambda: any(told.startswith("READY=1") for told in manager.told), what="READY=1")
        took = time.perf_counter() - begun
        agent.end()
    return took


def _median(values: list[float]) -> float:
    return percentile(values, 50)
