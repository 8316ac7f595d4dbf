"""What the tests of commands share: one emulator, a door in good order, a run of `check`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli import main
from tests.support.cli_rig import Check, Checked, CliRig
from tests.support.emulator_process import EmulatorProcess


@pytest.fixture(scope="session")
def running_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with EmulatorProcess(tmp_path_factory.mktemp("emulator")) as emulator:
        yield emulator


@pytest.fixture
def emulator(running_emulator: EmulatorProcess) -> Iterator[EmulatorProcess]:
    yield running_emulator
    running_emulator.fault("clear")


@pytest.fixture
def door(running_emulator: EmulatorProcess, tmp_path: Path) -> Iterator[CliRig]:
    door = CliRig(tmp_path, key_file=running_emulator.private_key_file, url=running_emulator.url)
    yield door
    door.close()


@pytest.fixture
def check(door: CliRig, capsys: pytest.CaptureFixture[str]) -> Check:
    """`badge-agent check --json` with further options, on the door of the test."""

    def run(*options: str) -> Checked:
        code = main(["check", "--config", str(door.config), "--json", *options])
        said = capsys.readouterr()
        assert said.err == ""
        return Checked(code, **json.loads(said.out))

    return run
