"""One emulator for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig


@pytest.fixture(scope="session")
def shared_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    options = ("--no-limits", "--pipe=SFE_BADGE_EVENTS_PIPE", "--pipe=SECOND_PIPE")
    with EmulatorProcess(tmp_path_factory.mktemp("emulator"), options=options) as emulator:
        yield emulator


@pytest.fixture
def emulator(shared_emulator: EmulatorProcess) -> Iterator[EmulatorProcess]:
    yield shared_emulator
    shared_emulator.fault("clear")


@pytest.fixture
def door(emulator: EmulatorProcess) -> Iterator[EmulatorRig]:
    door = EmulatorRig(emulator.url)
    with door.session:
        yield door
