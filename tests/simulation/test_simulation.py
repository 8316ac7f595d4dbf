from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.simulation.course import KINDS
from tests.simulation.launch import Report, as_test_case, compiled_disk, histories
from tests.support.needs import compiler

_FOUND = Path(__file__).with_name("found.jsonl")
_STEPS = 100_000  # from the same seed each time; `make simulate` runs a million from another
_SEED = 0


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The simulated disk, compiled."""
    return compiled_disk(compiler(), tmp_path_factory.mktemp("disk"))


def _failures(report: Report) -> str:
    return "\n".join(f"{found['problem']}\n  {as_test_case(found)}" for found in report.failures)


@pytest.mark.timeout(1_800)
def test_no_drawn_history_breaks_the_promise(library: Path) -> None:
    report = Report()

    for found in histories(library, [("--seed", str(_SEED), "--steps", str(_STEPS), "--shrink")]):
        report.add(found)

    assert not report.failures, _failures(report)
    assert report.steps >= _STEPS


@pytest.mark.timeout(300)
def test_every_history_that_ever_failed_keeps_the_promise_now(library: Path) -> None:
    plans = _FOUND.read_text(encoding="utf-8").splitlines()
    report = Report()

    for found in histories(library, [("--plans", str(_FOUND))]):
        report.add(found)

    assert report.histories == len(plans)
    assert not report.failures, _failures(report)


def test_the_events_of_histories_that_failed_are_still_known() -> None:
    for line in _FOUND.read_text(encoding="utf-8").splitlines():
        assert {kind for _, kind, _ in json.loads(line)["events"]} <= set(KINDS)


@pytest.mark.timeout(120)
def test_one_seed_is_one_history(library: Path) -> None:
    words = ("--seed", "7", "--steps", "1500")

    one, again = (list(histories(library, [words])) for _ in range(2))
    (alone,) = histories(library, [("--seed", str(one[-1]["seed"]), "--steps", "1")])

    assert [{**found, "cpu_s": 0} for found in one] == [{**found, "cpu_s": 0} for found in again]
    assert {**alone, "cpu_s": 0} == {**one[-1], "cpu_s": 0}
    assert len(one) > 1
