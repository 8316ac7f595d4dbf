"""What every test of a real process with clocks of its own needs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.needs import compiler


@pytest.fixture(scope="session")
def clocks_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that gives a process the clocks of another machine, compiled."""
    library = tmp_path_factory.mktemp("clocks") / "clocks.so"
    source = Path(__file__).with_name("clocks.c")
    subprocess.run(
        [compiler(), "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True
    )
    return library
