"""What every chaos test shares."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chaos import at_once
from tests.emulator_process import make_key

pytest.register_assert_rewrite("tests.chaos.stage")


@pytest.fixture(scope="session")
def running(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[at_once.Running]:
    """The scenarios of all modules, under way together."""
    make_key()  # before several emulators ask for it at once
    with at_once.running(request.session.items, tmp_path_factory.mktemp("chaos")) as running:
        yield running
