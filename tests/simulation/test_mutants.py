from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.simulation.launch import compiled_disk
from tests.simulation.mutants import mutants, search
from tests.support.needs import compiler
from tests.support.paths import ROOT

_LEAST = 25
_STEPS = 20_000  # at most: a search ends with the first history that fails
_FAST = (
    "a-busy-file-is-a-bug",
    "a-card-held-over-a-restart-is-two",
    "a-held-card-is-many-swipes",
    "swipes-leave-the-queue-before-they-are-stored",
    "the-chain-does-not-go-on",
)


def test_every_mutant_still_applies(tmp_path: Path) -> None:
    found = mutants()

    assert len(found) >= _LEAST
    for mutant in found:
        for file in {change.file for change in mutant.changes}:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / file)
        mutant.apply(tmp_path)
        for change in mutant.changes:
            compile((tmp_path / change.file).read_text(encoding="utf-8"), change.file, "exec")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", _FAST)
def test_the_simulation_finds_a_mutant(name: str, tmp_path: Path) -> None:
    library = compiled_disk(compiler(), tmp_path)
    (mutant,) = (one for one in mutants() if one.name == name)

    assert search(mutant, library, steps=_STEPS, is_quick=True).problem is not None
