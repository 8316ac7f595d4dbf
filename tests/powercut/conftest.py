"""What every test of the power cut and of the failing disk needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.failing_disk import FailingDisk
from tests.support.needs import compiler


def _compiled(name: str, directory: Path) -> Path:
    library = directory / f"{name}.so"
    source = Path(__file__).with_name(f"{name}.c")
    subprocess.run(
        [compiler(), "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl", "-lpthread"],
        check=True,
    )
    return library


@pytest.fixture(scope="session")
def recorder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that writes down what a process does to its disk, compiled."""
    return _compiled("recorder", tmp_path_factory.mktemp("recorder"))


@pytest.fixture(scope="session")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes chosen reads, writes and flushes fail, compiled."""
    return _compiled("failing_disk", tmp_path_factory.mktemp("faults"))


@pytest.fixture
def disk(faults: Path, tmp_path: Path) -> FailingDisk:
    """An empty state directory on a disk that fails at chosen operations."""
    return FailingDisk(faults, tmp_path)
