"""A million steps of faults: `python -m tests.simulation [--steps N] [--seed FIRST] [--workers 2]`."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
import time
from pathlib import Path

from tests.simulation.course import KINDS
from tests.simulation.launch import Report, as_test_case, compiled_disk, histories

_COLUMNS = 4


def main() -> int:
    """Run as a command; 1 if a history failed or a kind of event was never drawn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    report, began_s = Report(), time.monotonic()
    print(f"seeds from {options.seed} on")
    with tempfile.TemporaryDirectory() as directory:
        library = compiled_disk(os.environ.get("CC", "cc"), Path(directory))
        each = str(options.steps // options.workers)
        workers = [
            ("--seed", str(options.seed + n), "--stride", str(options.workers), "--steps", each, "--shrink")
            for n in range(options.workers)
        ]
        for found in histories(library, workers):
            report.add(found)
            if found["problem"] is not None:
                print(f"seed {found['seed']}: {found['problem']}\n  {as_test_case(found)}", flush=True)
    took_s = time.monotonic() - began_s
    print(
        f"{report.histories:,} histories of {report.days:,.0f} simulated days: {report.steps:,} steps, "
        f"{report.swipes:,} swipes, {report.requests:,} requests; {took_s:.0f} s, "
        f"{report.steps / took_s:,.0f} steps/s, {report.steps / report.cpu_s:,.0f} per second of a core"
    )
    _print_table("events", {kind: report.drawn[kind] for kind in KINDS})
    _print_table("operations of the disk that failed, answers drawn", dict(report.fired))
    unused = [kind for kind in KINDS if not report.drawn[kind]]
    if unused:
        print(f"never drawn: {', '.join(sorted(unused))}")
    print(f"{len(report.failures)} histories failed")
    return 1 if report.failures or unused else 0


def _print_table(title: str, counts: dict[str, int]) -> None:
    print(f"{title}:")
    cells = [f"{name:24}{number:8,}" for name, number in counts.items()]
    for start in range(0, len(cells), _COLUMNS):
        print("  " + "  ".join(cells[start : start + _COLUMNS]))


if __name__ == "__main__":
    sys.exit(main())
