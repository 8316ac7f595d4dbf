"""Starts workers of the simulation, each with the simulated disk preloaded, and adds up what they report."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tests.support.paths import ROOT

_SOURCE = Path(__file__).with_name("disk.c")


def compiled_disk(compiler: str, directory: Path) -> Path:
    """The library of disk.c."""
    library = directory / "disk.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(_SOURCE), "-ldl"], check=True
    )
    return library


@dataclass
class Report:
    """What histories add up to."""

    steps: int = 0
    histories: int = 0
    swipes: int = 0
    requests: int = 0
    days: float = 0.0
    cpu_s: float = 0.0
    drawn: Counter[str] = field(default_factory=Counter)
    fired: Counter[str] = field(default_factory=Counter)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, found: dict[str, Any]) -> None:
        """Add one history."""
        self.steps += found["steps"]
        self.histories += 1
        self.swipes += found["swipes"]
        self.requests += found["requests"]
        self.days += found["simulated_s"] / 86_400
        self.cpu_s += found["cpu_s"]
        self.drawn.update(found["drawn"])
        self.fired.update(found["fired"])
        if found["problem"] is not None:
            self.failures.append(found)


def histories(
    library: Path, workers: Sequence[Sequence[str]], *, root: Path = ROOT
) -> Iterator[dict[str, Any]]:
    """What each history found: one worker for each list of arguments."""
    # The order of sets is part of a history.
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONHASHSEED": "0"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.simulation.worker", *words],
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=environment,
        )
        for words in workers
    ]
    # A worker whose pipe is full would wait until the one before it has ended.
    lines = SimpleQueue[str | None]()
    for worker in started:
        threading.Thread(target=_read_to_end, args=(worker, lines), daemon=True).start()
    try:
        for _ in started:
            while (line := lines.get()) is not None:
                yield json.loads(line)
        for worker in started:
            if worker.wait() != 0:
                raise RuntimeError(f"a worker ended with status {worker.returncode}")
    finally:
        for worker in started:
            if worker.poll() is None:
                worker.kill()
            worker.wait()


def _read_to_end(worker: subprocess.Popen[str], lines: SimpleQueue[str | None]) -> None:
    assert worker.stdout is not None
    with worker.stdout as stdout:
        for line in stdout:
            lines.put(line)
    lines.put(None)


def as_test_case(failure: dict[str, Any]) -> str:
    """A history that failed, as a line of found.jsonl."""
    return json.dumps(
        {"seed": failure["seed"], "found": failure["problem"][:100], "events": failure["events"]}
    )
