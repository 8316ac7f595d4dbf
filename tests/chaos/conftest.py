"""Shared fixtures of the chaos tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import in_parallel
from tests.support.emulator_process import make_key

pytest.register_assert_rewrite("tests.support.chaos_rig")


# A test waits for its scenario, and that for the ones ahead of it. What hangs in one wait_until() finds.
_LONGEST_TEST_S = 900


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("timeout") is not None:  # `make chaos` has its own
        return
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(_LONGEST_TEST_S))


@pytest.fixture(scope="module")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[in_parallel.Running]:
    """The scenarios of this module, under way together."""
    tests = [item for item in request.session.items if item.path == request.path]
    make_key()  # before several emulators need it concurrently
    with in_parallel.running(tests, tmp_path_factory.mktemp("chaos")) as running:
        yield running
