"""Two commands at the same time that change the same thing: one waits or ends with the reason."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.cli import main
from agent.config.loader import load
from agent.keys.key_store import replacing_key
from agent.outbox import read_counts
from agent.outbox.state_lock import OPEN_FILE, is_open
from agent.service.drain import drain
from tests.support.agent_process import rdm6300_frame
from tests.support.cli_rig import CliRig
from tests.support.emulator_process import EmulatorProcess
from tests.support.outbox_rig import keep, opened
from tests.support.swipes import wait_until


@pytest.fixture
def delivered(emulator: EmulatorProcess, tmp_path: Path) -> Iterator[CliRig]:
    """A stopped agent whose rows are all delivered."""
    rig = CliRig(tmp_path, key_file=emulator.private_key_file, url=emulator.url)
    with closing(opened(rig.state_dir)) as outbox:
        keep(outbox, 20)
    drain(load(rig.config), while_true=lambda: read_counts(rig.state_dir).pending > 0)
    yield rig
    rig.close()


def has_open(pid: int, path: Path) -> bool:
    """Whether a process has a file open."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # just closed
            if descriptor.readlink() == path:
                return True
    return False


def test_a_second_replay_without_an_agent_waits_for_the_first(
    delivered: CliRig, emulator: EmulatorProcess
) -> None:
    lock = delivered.state_dir / OPEN_FILE
    emulator.fault("stall_commits")
    command = [sys.executable, "-m", "agent", "replay", "--config", str(delivered.config), "--from"]
    with subprocess.Popen([*command, "1", "--to", "5"], stdout=subprocess.DEVNULL) as first:
        wait_until(lambda: is_open(delivered.state_dir), what="the first replay")
        with subprocess.Popen([*command, "6", "--to", "10"], stdout=subprocess.DEVNULL) as second:
            wait_until(lambda: has_open(second.pid, lock), what="the second one at the lock")
            wait_until(lambda: not has_open(second.pid, lock), what="the second one refused")
            emulator.fault("resume_commits")

            assert (first.wait(timeout=30), second.wait(timeout=30)) == (0, 0)


def test_an_agent_that_starts_during_a_replay_takes_the_outbox_over(
    delivered: CliRig, emulator: EmulatorProcess
) -> None:
    emulator.fault("stall_commits")
    command = [sys.executable, "-m", "agent", "replay", "--config", str(delivered.config), "--from", "1"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as replay:
        wait_until(lambda: is_open(delivered.state_dir), what="the replay")
        with delivered.running_agent():
            os.write(delivered.master, rdm6300_frame(7))
            wait_until(lambda: delivered.status()["outbox"]["last_seq"] == 21, what="a swipe meanwhile")
            emulator.fault("resume_commits")

            assert replay.wait(timeout=30) == 0


def test_a_second_rotation_of_the_key_ends_with_the_reason(
    delivered: CliRig, emulator: EmulatorProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    with replacing_key(emulator.private_key_file):
        assert main(["key", "rotate", "--yes", "--config", str(delivered.config)]) == 1

    assert "another command replaces the key at the moment" in capsys.readouterr().err
    assert not emulator.private_key_file.with_name(f"{emulator.private_key_file.name}.next").exists()
