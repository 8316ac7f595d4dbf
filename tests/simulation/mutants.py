"""Old defects, put into a copy of the agent one at a time: `python -m tests.simulation.mutants [NAME ...]`.

Each file of mutants/ is a small change of one file that brings back a defect. The simulation has to find it.
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
class Mutant:
    """A change of one file, and where the defect was described."""

    name: str
    issue: str
    file: str
    kinds: list[str]  # events without which it cannot show
    old: str
    new: str

    def applied(self, text: str) -> str:
        """The text of the file with the defect. Raises ValueError unless the old text is there once."""
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.file} has its old text {text.count(self.old)} times")
        return text.replace(self.old, self.new)


def mutants() -> list[Mutant]:
    """All of them, by name."""
    return [
        Mutant(path.stem, **tomllib.loads(path.read_text(encoding="utf-8")))
        for path in sorted(MUTANTS.glob("*.toml"))
    ]


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
        path = root / mutant.file
        path.write_text(mutant.applied(path.read_text(encoding="utf-8")), encoding="utf-8")
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
