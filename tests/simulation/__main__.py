"""Runs histories in this process: `python -m tests.simulation --steps N [--seed FIRST]`."""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from agent.keys.keypair import load_private_key
from tests.simulation.disk import Disk
from tests.simulation.events import EVENTS
from tests.simulation.history import Figures, History, Keys, Plan, only, plan

_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - directories of its own below it


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


def run(one: Plan, keys: Keys, disk: Disk, place: Path) -> tuple[Figures, str | None]:
    """One history; its figures, and what is wrong with it."""
    directory = place / "history"
    directory.mkdir()
    history = History(directory, one, keys, disk)
    try:
        return history.run(), None
    except Exception as error:  # noqa: BLE001 - the finding
        if os.environ.get("SIMULATION_TRACE"):
            traceback.print_exc()
        return history.figures, f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(directory)


def main() -> int:
    """Run as a command."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    disk, total, began = Disk(), Figures(), time.process_time()
    failures = {}
    with tempfile.TemporaryDirectory(dir=_IN_MEMORY if _IN_MEMORY.is_dir() else None) as directory:
        place = Path(directory)
        keys = make_keys(place)
        seed = options.seed
        while total.steps < options.steps:
            found, problem = run(plan(seed), keys, disk, place)
            total.steps += found.steps
            total.histories += 1
            total.swipes += found.swipes
            total.requests += found.requests
            total.simulated_s += found.simulated_s
            total.drawn += found.drawn
            if problem is not None:
                failures[seed] = problem
                print(f"seed {seed}: {problem[:300]}", flush=True)
            seed += 1
    took_s = time.process_time() - began
    print(f"{total.steps} steps in {took_s:.1f} s, {total.steps / took_s:.0f}/s; {total.histories} histories, "
          f"{total.swipes} swipes, {total.requests} requests, {total.simulated_s / 86_400:.0f} days")
    print({kind: total.drawn[kind] for kind in EVENTS})
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
