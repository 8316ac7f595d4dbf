"""What tests of several rooms share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings

from agent.keys.keypair import generate_key
from tests.support.agent_process import PtyReader
from tests.support.emulator_process import EmulatorProcess

_NOBODY = 65_534

# The time to generate inputs depends on the load of the machine, not on the program.
hypothesis_settings.register_profile("shared", suppress_health_check=[HealthCheck.too_slow], deadline=None)
hypothesis_settings.load_profile("shared")

# A runner started in the background ignores SIGINT, and every process the tests start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def rsa_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh 2048-bit key, made once per run because making one takes a while."""
    path = tmp_path_factory.mktemp("keys") / "rsa_key.p8"
    generate_key(path)
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[EmulatorProcess]:
    """A pipe of this test's own."""
    with EmulatorProcess(tmp_path / "pipe") as emulator:
        yield emulator


@pytest.fixture
def line(tmp_path: Path) -> Iterator[PtyReader]:
    """A reader on a serial line of this test's own."""
    with PtyReader(tmp_path / "reader") as line:
        yield line


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """An ordinary user for the length of a test: file modes do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
