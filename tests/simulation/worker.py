"""Runs histories in this process, which needs disk.c preloaded: started by launch.py.

Prints JSON, one object a line. `--seed N --stride K --steps M` runs N, N + K, N + 2K ... until there were M
steps; `--plans FILE` runs the plans of a file; `--kinds A,B` runs only histories that are planned with all of
these events; `--shrink` removes events from each plan that fails, as long as it still fails.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.keys.keypair import load_private_key
from tests.simulation.course import only, plan, run
from tests.simulation.disk import Disk
from tests.simulation.history import Figures, History, Keys, Plan

_IN_MEMORY = Path("/dev/shm")
_MOST_TRIES = 300  # of one shrinking


class Runner:
    """Runs plans, one after the other, in a directory of its own."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._disk = Disk()
        self._keys = make_keys(place)
        # What only the first history imports and caches is part of none.
        self.run(Plan(0, [(1.0, "swipe", 0)]))

    def run(self, one: Plan) -> tuple[Figures, str | None]:
        """One history: its figures, and what is wrong with it."""
        directory = self._place / "history"
        directory.mkdir()
        history = History(directory, one, self._keys, self._disk)
        fired = self._disk.fired()
        try:
            run(history)
        except Exception as error:  # noqa: BLE001 - the finding
            if "SIMULATION_TRACE" in os.environ:
                traceback.print_exc()
            return history.figures, f"{type(error).__name__}: {error}"[:500]
        finally:
            history.figures.fired = self._disk.fired() - fired + history.service.answered
            shutil.rmtree(directory)
        return history.figures, None

    def shrunk(self, whole: Plan) -> Plan:
        """A plan that fails, without the events that it fails without."""
        kept = list(range(len(whole.events)))
        size, tries = max(1, len(kept) // 2), 0
        while size and tries < _MOST_TRIES:
            at, is_smaller = 0, False
            while at < len(kept) and tries < _MOST_TRIES:
                fewer = kept[:at] + kept[at + size :]
                tries += 1
                if self.run(only(whole, fewer))[1] is not None:
                    kept, is_smaller = fewer, True
                else:
                    at += size
            size = size if is_smaller and size == 1 else size // 2
        return only(whole, kept)


def make_keys(directory: Path) -> Keys:
    """Two ECDSA keys: RSA takes fifty times as long to sign."""
    files, keys = [], []
    for name in ("one", "two"):
        path = directory / f"{name}.p8"
        path.touch(mode=0o600)
        private = ec.generate_private_key(ec.SECP256R1())
        path.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        files.append(path)
        keys.append(load_private_key(path))
    return Keys((files[0], files[1]), (keys[0], keys[1]))


def _plans(options: argparse.Namespace) -> Iterator[Plan]:
    if options.plans is None:
        for seed in count(options.seed, options.stride):
            one = plan(seed)
            if options.kinds <= {kind for _, kind, _ in one.events}:
                yield one
    else:
        for line in options.plans.read_text(encoding="utf-8").splitlines():
            found = json.loads(line)
            yield Plan(found["seed"], [tuple(event) for event in found["events"]])


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--plans", type=Path)
    parser.add_argument("--kinds", type=lambda text: set(text.split(",")), default=set())
    parser.add_argument("--shrink", action="store_true")
    parser.add_argument("--until-failure", action="store_true")
    options = parser.parse_args()
    logging.disable()
    steps = 0
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as directory:
        runner = Runner(Path(directory))
        for one in _plans(options):
            began_s = time.process_time()
            figures, problem = runner.run(one)
            steps += figures.steps
            found = {"seed": one.seed, "problem": problem, **vars(figures)}
            found["cpu_s"] = round(time.process_time() - began_s, 3)
            if problem is not None:
                found["events"] = (runner.shrunk(one) if options.shrink else one).events
            print(json.dumps(found), flush=True)
            if (options.plans is None and steps >= options.steps) or (problem and options.until_failure):
                break
    return 0


if __name__ == "__main__":
    sys.exit(main())
