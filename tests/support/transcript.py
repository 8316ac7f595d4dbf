"""Tests that are the steps of one sequence, and their transcript: one line per test at the end of the run.

A conftest.py imports its hooks and its fixture.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

import pytest

_FIGURES = pytest.StashKey[str]()
_BROKEN = pytest.StashKey[str]()
_LINES: list[str] = []


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Adds what was measured to the test's line in the transcript."""

    def add(figures: str) -> None:
        request.node.stash[_FIGURES] = figures

    return add


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Each test continues from the state that the previous one left.
    if item.parent is not None and item.parent.stash.get(_BROKEN, None) == _release(item):
        pytest.skip("a previous step failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.parent is not None:
        item.parent.stash[_BROKEN] = _release(item)
    if report.when == "call" or not report.passed:
        name = item.name.partition("[")[0].removeprefix("test_").replace("_", " ")
        figures = item.stash.get(_FIGURES, "")
        mark = {"passed": "ok    ", "failed": "FAILED"}.get(report.outcome, report.outcome)
        _LINES.append(f"{mark}  {_release(item)}: {name}" + (f" ({figures})" if figures else ""))
    return report


def _release(item: pytest.Item) -> str:
    return item.name.partition("[")[2].removesuffix("]")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("transcript")
    for line in _LINES:
        terminalreporter.write_line(line)
