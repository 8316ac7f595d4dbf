"""Fixtures shared by the tests of several folders."""

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

_UNPRIVILEGED_UID = 65_534

# The time to generate inputs depends on the load of the machine, not on the program.
hypothesis_settings.register_profile("shared", suppress_health_check=[HealthCheck.too_slow], deadline=None)
hypothesis_settings.load_profile("shared")

# A test runner started in the background ignores SIGINT, and its child processes inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def rsa_key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new 2048-bit key, created once per run because that takes a while."""
    path = tmp_path_factory.mktemp("keys") / "rsa_key.p8"
    generate_key(path)
    return path


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[EmulatorProcess]:
    """An emulator process for this test alone."""
    with EmulatorProcess(tmp_path / "pipe") as emulator:
        yield emulator


@pytest.fixture
def line(tmp_path: Path) -> Iterator[PtyReader]:
    """A reader on a pseudo-terminal for this test alone."""
    with PtyReader(tmp_path / "reader") as line:
        yield line


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Run the test as an unprivileged user: file modes do not restrict root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(_UNPRIVILEGED_UID)
    try:
        yield
    finally:
        os.seteuid(0)
