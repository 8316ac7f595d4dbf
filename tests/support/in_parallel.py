"""Runs scenarios that mostly wait concurrently; each is reported as a test of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

# Fewer where the files themselves run in parallel: each scenario starts two processes.
_AT_ONCE = max(2, 6 // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))

Scenario = Callable[[Path], None]  # called with a directory of its own
Running = Mapping[str, Future[None]]  # result() raises what the scenario raised

_scenarios: dict[str, tuple[str, Scenario]] = {}


def at_once(scenario: Scenario) -> Scenario:
    """Decorator: register this function as a scenario of its module."""
    add(scenario.__name__.replace("_", " "), scenario.__module__, scenario)
    return scenario


def add(name: str, module: str, scenario: Scenario) -> None:
    """Register a scenario under a name."""
    assert name not in _scenarios
    _scenarios[name] = module, scenario


def names(module: str) -> list[str]:
    """The scenarios of a module, for parametrize()."""
    return [name for name, (of, _) in _scenarios.items() if of == module]


@contextmanager
def running(items: list[pytest.Item], place: Path) -> Iterator[Running]:
    """Start the scenarios that these tests use; gives their futures by name."""
    asked = {item.callspec.params.get("scenario") for item in items if hasattr(item, "callspec")}
    chosen = [(name, scenario) for name, (_, scenario) in _scenarios.items() if name in asked]
    with ThreadPoolExecutor(_AT_ONCE) as workers:
        yield {
            name: workers.submit(scenario, place / str(number))
            for number, (name, scenario) in enumerate(chosen)
        }
