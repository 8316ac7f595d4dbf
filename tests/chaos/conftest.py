"""Shared fixtures of the chaos tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support import in_parallel
from tests.support.emulator_process import make_key

pytest.register_assert_rewrite("tests.support.chaos_rig")


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[in_parallel.Running]:
    """The scenarios of all modules, under way together."""
    make_key()  # before several emulators need it concurrently
    with in_parallel.running(request.session.items, tmp_path_factory.mktemp("chaos")) as running:
        yield running
