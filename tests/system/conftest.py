"""Fixtures of the tests of the package."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian_root
from tests.support.installed_agent import InstalledAgent
from tests.support.package import built
from tests.support.transcript import (
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_terminal_summary,
    report,
)

__all__ = ["pytest_runtest_makereport", "pytest_runtest_setup", "pytest_terminal_summary", "report"]

_RELEASES = os.environ.get("RELEASES", "trixie bookworm").split()
_NATIVE = debian_root.host_architecture()
_ARCH = os.environ.get("ARCH", _NATIVE)
# systemd does not boot under emulation.
collect_ignore = ["test_foreign.py"] if _ARCH == _NATIVE else ["test_door.py"]

# Unpacking, booting or an upgrade, on a busy machine and, for another processor, under emulation.
_LONGEST_TEST_S = 1800


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "door" in metafunc.fixturenames:
        releases = [debian_root.Release(name, _ARCH) for name in _RELEASES]
        metafunc.parametrize(
            "door", releases, indirect=True, scope="module", ids=[release.name for release in releases]
        )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.timeout(_LONGEST_TEST_S))


@pytest.fixture(scope="session")
def package() -> Path:
    """The package of this checkout."""
    return built()


@pytest.fixture(scope="module")
def door(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[InstalledAgent]:
    """An installed agent on one release, shared by the tests of a module."""
    release: debian_root.Release = request.param
    with InstalledAgent(release, tmp_path_factory.mktemp("system")) as door:
        yield door
