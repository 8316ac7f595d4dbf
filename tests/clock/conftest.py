"""What every test of a real process with clocks of its own needs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def clocks_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that gives a process the clocks of another machine, compiled."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the clocks: sudo apt install gcc libc6-dev")
    library = tmp_path_factory.mktemp("clocks") / "clocks.so"
    source = Path(__file__).with_name("clocks.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library
