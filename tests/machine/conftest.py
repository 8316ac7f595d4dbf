"""Fixtures of the tests on a whole machine, and their transcript."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian_root
from tests.support.package import built
from tests.support.transcript import (
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_terminal_summary,
    report,
)
from tests.support.whole_machine import WholeDoor

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup", "pytest_terminal_summary", "report"]

_ARCH = os.environ.get("ARCH", "amd64")
# Figures are those of the small board; all else is the same on both, and faster on amd64.
collect_ignore = ["test_figures.py"] if _ARCH == "amd64" else ["test_whole_machine.py"]

_LONGEST_TEST_S = 3600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(_LONGEST_TEST_S))


@pytest.fixture(scope="session")
def package() -> Path:
    """The package of this checkout."""
    return built()


@pytest.fixture(scope="module", params=[debian_root.Release("trixie", _ARCH)], ids=[f"trixie {_ARCH}"])
def door(request: pytest.FixtureRequest) -> Iterator[WholeDoor]:
    """A booted machine without the package, shared by the tests of a module."""
    # Short paths: the name of a socket has 108 bytes at most.
    with (
        tempfile.TemporaryDirectory(prefix="machine-", dir="/var/tmp") as name,
        WholeDoor(request.param, Path(name)) as door,
    ):
        yield door
