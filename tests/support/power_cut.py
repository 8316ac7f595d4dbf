"""Record a run of the outbox, cut the power at any record of it, and check what the next run finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from agent import rows
from agent.outbox import Outbox
from agent.outbox.state import OutboxState
from tests.support.outbox_life import AGENT_ID
from tests.support.outbox_rig import recover
from tests.support.paths import ROOT
from tests.support.recorded_disk import DAMAGES, Damage, Disk, Record, read_recording
from tests.support.swipes import swipe

_LATER = 1_000_000_000
# More than the swipes that one keep() takes: those under way at a cut may have been stored, or not.
_IN_FLIGHT = 10


@dataclass(frozen=True)
class Promise:
    """What the outbox has promised by the moment of a cut; swipes by their value."""

    kept: frozenset[int] = frozenset()
    committing: int = 0  # up to here at most
    purgeable: int = 0  # up to here at most
    set_aside: frozenset[int] = frozenset()
    replays: frozenset[int] = frozenset()

    def after(self, mark: dict[str, Any]) -> Promise:
        """The promise after one more mark of the process."""
        if "kept" in mark:
            return replace(self, kept=self.kept | set(mark["kept"]))
        if "committing" in mark:
            return replace(self, committing=max(self.committing, mark["committing"]))
        if "purging" in mark:
            return replace(self, purgeable=self.committing)
        if "set_aside" in mark:
            return replace(self, set_aside=self.set_aside | {mark["set_aside"]})
        if "replays" in mark:
            return replace(self, replays=self.replays | set(mark["replays"]))
        return self

    @property
    def still_there(self) -> set[int]:
        """Swipes that must be in the file."""
        return {value for value in self.kept if value > self.purgeable} | set(self.set_aside)


@dataclass(frozen=True)
class Life:
    """A recorded run: the disk before it, every change after that, what was promised before."""

    before: dict[str, tuple[int, bytes]]
    records: list[Record]
    promise: Promise


def record(
    recorder: Path,
    state_dir: Path,
    *,
    steps: int,
    seed: int,
    settings: str = "",
    promise: Promise | None = None,
) -> Life:
    """Run an outbox in a directory, and record every change that it makes to the disk."""
    before = {path.name: (path.stat().st_ino, path.read_bytes()) for path in state_dir.iterdir()}
    promise = promise or Promise()
    with tempfile.TemporaryDirectory() as other:
        log = Path(other) / "log"
        subprocess.run(
            [
                *(sys.executable, "-m", "tests.support.outbox_life", str(state_dir)),
                *(str(steps), str(seed), str(max(promise.kept, default=0) + _IN_FLIGHT), settings),
            ],
            env=os.environ
            | {"LD_PRELOAD": str(recorder), "POWERCUT_DIR": str(state_dir), "POWERCUT_LOG": str(log)},
            cwd=ROOT,
            check=True,
        )
        return Life(before, list(read_recording(log)), promise)


def cut(
    life: Life, places: Sequence[int], random: Random, damages: Sequence[Damage] = DAMAGES
) -> Iterator[tuple[str, dict[str, bytes], Promise]]:
    """What is left after a power cut after this many records, once for every kind of damage."""
    wanted, disk, promise = set(places), Disk(life.before), life.promise
    for number, done in enumerate(life.records):
        if done.kind == "M":
            promise = promise.after(json.loads(done.bytes))
        else:
            disk.apply(done)
        if number in wanted:
            for damage in damages:
                yield f"{damage.name}, cut at {number}", disk.after_cut(damage, random), promise


def lay_out(image: dict[str, bytes], directory: Path) -> None:
    """Write the image of a disk after a power cut into a directory."""
    for path in directory.iterdir():
        path.unlink()
    for name, content in image.items():
        # SQLite rebuilds its index of the WAL after a crash, and never trusts one that is left.
        if not name.endswith("-shm"):
            (directory / name).write_bytes(content)


def faults_in(directory: Path, promise: Promise) -> list[str]:
    """Open the image with the real outbox; returns everything that is not as promised."""
    outbox = Outbox(directory, agent_id=AGENT_ID)
    try:
        recover(outbox)
        return [*_faults(outbox, promise), *_unusable(outbox)]
    finally:
        outbox.close()


def _faults(outbox: Outbox, promise: Promise) -> Iterator[str]:
    with outbox.file.reading() as connection:
        stored = connection.execute("SELECT n, row FROM swipes ORDER BY n").fetchall()
        replays = {found[0] for found in connection.execute("SELECT id FROM replays").fetchall()}
        aside = {found[0] for found in connection.execute("SELECT first_n FROM held").fetchall()}
    members = {n: json.loads(row) for n, row in stored}
    values = {n: int(row["card_raw"], 16) for n, row in members.items()}
    if lost := promise.still_there - set(values.values()):
        yield f"{len(lost)} kept swipes are lost"
    if len(set(values.values())) != len(values):
        yield "a swipe is there twice"
    if promise.set_aside - {values[n] for n in aside if n in values}:
        yield "a row that was set aside is no longer held"
    if promise.replays - replays:
        yield "a replay that was asked for is forgotten"
    in_order = [value for n, value in values.items() if n not in aside]
    if in_order != sorted(in_order):
        yield "the order of swipes is another"
    committed = [value for n, value in values.items() if n <= outbox.state.committed_n and n not in aside]
    if max(committed, default=0) > promise.committing:
        yield "more is committed than ever was"
    yield from _gaps(members, outbox.state)


def _gaps(members: dict[int, dict[str, Any]], me: OutboxState) -> Iterator[str]:
    pending = [n for n in members if n > me.committed_n]
    # Numbers of rows that a recovery has not found, and those that it has passed over, are known.
    absent = {n for first, last in me.lost for n in range(first, last + 1)} | me.set_aside_numbers
    if set(pending) - absent != set(range(me.committed_n + 1, me.last_n + 1)) - absent:
        yield "the numbers of pending swipes have holes"
    for n, row in members.items():
        # The previous chain of the first row after purged ones is unknown; older versions had another chain.
        previous = me.generations[0].chain_before if n == 1 else members.get(n - 1, {}).get("chain")
        is_older = len(row["chain"]) < 32
        if previous is not None and not is_older and rows.chain_hash(previous, row) != row["chain"]:
            yield f"the chain is broken at {n}"


def _unusable(outbox: Outbox) -> Iterator[str]:
    outbox.keep(swipe(_LATER))
    with outbox.file.reading() as connection:
        found = connection.execute("PRAGMA quick_check").fetchone()[0]
    if found != "ok":
        yield f"the file is damaged: {found}"
