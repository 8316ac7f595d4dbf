"""Old defects, put into a copy of the agent one at a time: `python -m tests.simulation.mutants [NAME ...]`.

Each file of mutants/ brings back a defect by a small change of one place, or of each place that prevents it
today. The simulation has to find it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.launch import compiled_disk, histories
from tests.support.paths import ROOT

MUTANTS = Path(__file__).with_name("mutants")
_MOST_STEPS = 1_000_000


@dataclass(frozen=True)
class Change:
    """Of one place in a file."""

    file: str
    old: str
    new: str

    def apply(self, root: Path) -> None:
        """Write the file with the new text. Raises ValueError unless the old text is there once."""
        path = root / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} has the old text {text.count(self.old)} times: {self.old}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


@dataclass(frozen=True)
class Mutant:
    """A defect, and where it was described."""

    name: str
    issue: str
    kinds: list[str]  # events without which it cannot show
    changes: list[Change]

    def apply(self, root: Path) -> None:
        """Put the defect into a copy of the agent. Raises ValueError as Change.apply()."""
        for change in self.changes:
            change.apply(root)


def mutants() -> list[Mutant]:
    """All of them, by name."""
    return [_read(path) for path in sorted(MUTANTS.glob("*.toml"))]


def _read(path: Path) -> Mutant:
    found = tomllib.loads(path.read_text(encoding="utf-8"))
    return Mutant(path.stem, found["issue"], found["kinds"], [Change(**one) for one in found["changes"]])


@dataclass(frozen=True)
class Found:
    """How the simulation found a mutant; `problem` is None if it did not."""

    steps: int
    histories: int
    seed: int
    problem: str | None


def search(
    mutant: Mutant, library: Path, *, steps: int = _MOST_STEPS, seed: int = 0, is_quick: bool = False
) -> Found:
    """Run histories of the changed agent until one fails that the unchanged agent passes.

    If `is_quick`, only those with the mutant's events.
    """
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name in ("agent", "tests/simulation", "tests/support"):
            shutil.copytree(ROOT / name, root / name)
        mutant.apply(root)
        total = count = 0
        last, problem = seed, None
        kinds = ["--kinds", ",".join(mutant.kinds)] if is_quick else []
        while problem is None and total < steps:
            words = ["--seed", str(seed), "--steps", str(steps - total), "--until-failure", *kinds]
            for found in histories(library, [words], root=root):
                total, count = total + found["steps"], count + 1
                last, problem = found["seed"], found["problem"]
            if problem is not None and _fails_unchanged(last, library):
                problem, seed = None, last + 1
        return Found(total, count, last, problem)


def _fails_unchanged(seed: int, library: Path) -> bool:
    """Whether the history fails without the defect, too: then it says nothing of the mutant."""
    (found,) = histories(library, [["--seed", str(seed), "--steps", "1"]])
    return found["problem"] is not None


def main() -> int:
    """Run as a command; 1 if a mutant was not found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--steps", type=int, default=_MOST_STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="only histories with the events it needs")
    options = parser.parse_args()
    missed = []
    with tempfile.TemporaryDirectory() as directory:
        library = compiled_disk(os.environ.get("CC", "cc"), Path(directory))
        for mutant in mutants():
            if options.names and mutant.name not in options.names:
                continue
            found = search(mutant, library, steps=options.steps, seed=options.seed, is_quick=options.quick)
            result = found.problem[:90] if found.problem else "NOT FOUND"
            print(
                f"{mutant.name:48} {mutant.issue:16} {found.steps:9,} steps, "
                f"{found.histories} histories, seed {found.seed}: {result}",
                flush=True,
            )
            if found.problem is None:
                missed.append(mutant.name)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
