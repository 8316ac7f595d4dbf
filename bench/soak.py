"""The real process for hours, with swipes, outages, key rotations and replugs: what it holds must not grow.

    python -m bench.soak HOURS

Writes the samples to build/soak.csv and draws docs/soak.svg. Exit code: 0 if every figure meets its target.
SIGTERM ends it before its time, with the figures of what was run.
"""

from __future__ import annotations

import csv
import io
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

from agent.cli.console import table
from agent.outbox.database import open_external
from bench.figures import Figure
from bench.soak_plot import Panel, draw
from tests.support.chaos_rig import ChaosRig
from tests.support.swipes import wait_until

_SAMPLES = Path("build/soak.csv")
_PLOT = Path("docs/soak.svg")

_SAMPLE_S = 5.0
# Bursts are shorter than the ten seconds that make a flood.
_BURST_MAX = 100
_BURST_PER_S = 50
# The shortest retention allowed: 864 s. The file grows until the first rows are purged.
_TABLES = "[outbox]\nretention_days = 0.01\n"
_OUTAGE_S = (5.0, 60.0)
_UNPLUGGED_S = (0.5, 5.0)
_REOPENED_S = 120.0
_SEED = 17

_SHARE_OF_GROWTH = 0.05
# What a day of outages leaves differs from that of another day.
_SHARE_OF_GROWTH_IN_USE = 0.08
_WAL_MAX_BYTES = 8_000_000
_LOG_END = 10_000


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds at one moment."""

    seconds: float
    rss_kb: int
    descriptors: int
    threads: int
    wal_kb: int
    outbox_kb: int
    pending: int
    presented: int


class Soak:
    """An agent, a reader and an emulator, and everything that happens to them, drawn from one seed."""

    def __init__(self, rig: ChaosRig) -> None:
        self._rig = rig
        self._random = random.Random(_SEED)  # noqa: S311 - a soak that can be repeated
        self._pid = rig.agent.pid
        self.begun = time.monotonic()
        self.events: Counter[str] = Counter()
        self.outages: list[tuple[float, float]] = []
        self._is_over = False

    def end(self, *_: object) -> None:
        """End after the event that is under way. Also a handler of a signal."""
        self._is_over = True

    def run(self, seconds: float) -> list[Sample]:
        """Take a sample every five seconds; between them, one event."""
        samples = []
        actions = {self._swipes: 30, self._pause: 4, self._outage: 2, self._replug: 2, self._rotation: 1}
        for due in _moments(self.begun, seconds):
            if self._is_over:
                break
            samples.append(self._sample())
            (action,) = self._random.choices(list(actions), list(actions.values()))
            self.events[action.__name__.strip("_")] += 1
            action()
            time.sleep(max(0.0, due - time.monotonic()))
        samples.append(self._sample())
        return samples

    # --- what happens ---------------------------------------------------------------------------

    def _swipes(self) -> None:
        self._rig.present(self._random.randint(1, _BURST_MAX), per_second=_BURST_PER_S)

    def _pause(self) -> None:
        """No swipe."""

    def _outage(self) -> None:
        seconds = self._random.uniform(*_OUTAGE_S)
        kind = self._random.choice(("refused", "errors", "slow", "no answer"))
        match kind:
            case "refused":
                self._rig.pipe.fault("refuse", seconds=seconds)
            case "errors":
                self._rig.pipe.fault("status", status=503, times=self._random.randint(1, 8))
            case "slow":
                self._rig.pipe.fault("delay", seconds=self._random.uniform(0.1, 3.0), times=10)
            case _:
                self._rig.pipe.fault("drop_after", times=self._random.randint(1, 8))
        begun = time.monotonic() - self.begun
        self.outages.append((begun, begun + (seconds if kind == "refused" else 0.0)))

    def _replug(self) -> None:
        # What is in the line when it is pulled out is no swipe that reached the machine.
        wait_until(self._all_kept, what="every swipe so far is stored", timeout_s=_REOPENED_S)
        self._rig.line.unplug()
        wait_until(lambda: not self._rig.is_open, what="the agent has seen it", timeout_s=_REOPENED_S)
        time.sleep(self._random.uniform(*_UNPLUGGED_S))
        self._rig.line.plug_in()
        wait_until(lambda: self._rig.is_open, what="the reader is open again", timeout_s=_REOPENED_S)

    def _all_kept(self) -> bool:
        return self._rig.kept() >= len(self._rig.tags)

    def _rotation(self) -> None:
        """A whole rotation of the key; its commands wait for the end of an outage."""
        self._rig.pipe.fault("clear")
        self._rig.pipe.fault("refuse", seconds=0.1)
        words = [
            sys.executable,
            "-m",
            "agent",
            "key",
            "rotate",
            "--yes",
            "--config",
            str(self._rig.agent.config),
        ]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as rotating:
            output = rotating.stdout or io.StringIO()
            asked = "".join(iter(output.readline, "\n"))
            self._register(asked)
            rest = output.read()
        if rotating.returncode != 0:
            raise RuntimeError(f"key rotate ended with {rotating.returncode}: {asked}{rest}")
        self._register(rest)

    def _register(self, sql: str) -> None:
        for verb, slot, line in re.findall(r"(SET|UNSET) (RSA_PUBLIC_KEY(?:_2)?)(?:='([^']+)')?", sql):
            self._rig.pipe.alter_user(slot, line if verb == "SET" else None)

    # --- what it holds --------------------------------------------------------------------------

    def _sample(self) -> Sample:
        return sample(
            self._pid,
            self._rig.agent.state_dir,
            seconds=round(time.monotonic() - self.begun, 1),
            pending=self._rig.agent.outbox().pending,
            presented=len(self._rig.tags),
        )


def _moments(begun: float, seconds: float) -> Iterator[float]:
    number = 1
    while (due := max(begun + number * _SAMPLE_S, time.monotonic())) <= begun + seconds:
        yield due
        number += 1


def sample(pid: int, state_dir: Path, *, seconds: float, pending: int, presented: int) -> Sample:
    """What a process and its outbox hold now."""
    process = Path(f"/proc/{pid}")
    held = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", (process / "status").read_text(), re.MULTILINE))
    return Sample(
        seconds=seconds,
        rss_kb=int(held["VmRSS"]),
        descriptors=len(list((process / "fd").iterdir())),
        threads=int(held["Threads"]),
        wal_kb=_size_kb(state_dir / "outbox.db-wal"),
        outbox_kb=_used_kb(state_dir / "outbox.db"),
        pending=pending,
        presented=presented,
    )


def _size_kb(path: Path) -> int:
    return path.stat().st_size // 1024 if path.exists() else 0


def _used_kb(path: Path) -> int:
    """The pages in use: the file itself keeps the size that its longest outage has made it."""
    if not path.exists():
        return 0
    with closing(open_external(path.parent, "ro")) as connection:
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
    return int((pages - free) * size // 1024)


def figures(samples: list[Sample]) -> list[Figure]:
    """The third quarter and the last one compared, by their medians.

    An hour is the least: until rows are purged for the first time, after the retention and at most the 600 s
    of the uploader's interval, what the outbox file has in use grows with every swipe.
    """
    quarter = len(samples) // 4
    middle, last = samples[2 * quarter : 3 * quarter], samples[3 * quarter :]
    compared = []
    for name, what, share in (
        ("rss_kb", "memory, KB", _SHARE_OF_GROWTH),
        ("descriptors", "descriptors", _SHARE_OF_GROWTH),
        ("threads", "threads", _SHARE_OF_GROWTH),
        ("outbox_kb", "outbox file in use, KB", _SHARE_OF_GROWTH_IN_USE),
    ):
        before, after = (median(getattr(sample, name) for sample in part) for part in (middle, last))
        compared.append(
            Figure(
                f"{what}: third quarter, last quarter",
                f"{before:,.0f}, {after:,.0f}",
                f"<= {1 + share:.0%} of it",
                after <= before * (1 + share),
            )
        )
    largest = max(sample.wal_kb for sample in samples)
    return [
        *compared,
        Figure("largest write-ahead log", f"{largest:,} KB", "<= 8,000 KB", largest * 1024 <= _WAL_MAX_BYTES),
    ]


def main() -> int:
    """Exit code: 0 if every figure meets its target, 1 if not, 2 for wrong words."""
    try:
        hours = float(sys.argv[1])
    except (IndexError, ValueError):
        print("usage: python -m bench.soak HOURS")
        return 2
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, ChaosRig(Path(name), tables=_TABLES) as rig:
        soak = Soak(rig)
        signal.signal(signal.SIGTERM, soak.end)
        try:
            samples = soak.run(hours * 3600)
        except AssertionError:
            print(json.dumps({"presented": len(rig.tags), "status": rig.agent.status()}))
            print(rig.agent.log[-_LOG_END:])
            raise
        rig.pipe.fault("clear")
        rig.pipe.fault("refuse", seconds=0.1)
        rig.assert_delivered()
        delivered = len(rig.rows())
    _save(samples)
    minutes = samples[-1].seconds / 60
    title = (
        f"The agent's process during {minutes:.0f} minutes: {delivered:,} swipes, each delivered once and in "
        f"order; {soak.events['outage']} outages, {soak.events['replug']} replugs, "
        f"{soak.events['rotation']} key rotations"
    )
    outages = [(begun / 60, ended / 60) for begun, ended in soak.outages]
    _PLOT.write_text(draw(title, panels(samples, 60), "minutes", outages))
    print(title)
    found = figures(samples)
    table(
        ("figure", "measured", "target", ""),
        [(one.name, one.value, one.target, "" if one.holds else "MISSED") for one in found],
    )
    print(json.dumps(soak.events))
    return 0 if all(one.holds for one in found) else 1


def _save(samples: list[Sample]) -> None:
    _SAMPLES.parent.mkdir(exist_ok=True)
    with _SAMPLES.open("w", newline="") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Sample)])
        writer.writeheader()
        writer.writerows(asdict(sample) for sample in samples)


def panels(samples: list[Sample], unit_s: float) -> list[Panel]:
    """A panel for each figure, with times in units of so many seconds."""
    titles = {
        "rss_kb": "memory (RSS), KB",
        "descriptors": "open descriptors",
        "threads": "threads",
        "wal_kb": "write-ahead log, KB",
        "outbox_kb": "outbox file in use, KB",
        "pending": "swipes not yet committed",
    }
    times = [sample.seconds / unit_s for sample in samples]
    return [
        Panel(title, times, [float(getattr(sample, name)) for sample in samples])
        for name, title in titles.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
