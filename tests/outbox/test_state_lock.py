from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import NotPermittedError, OutboxError, OutboxInUseError
from agent.outbox.state_lock import LOCK_FILE, StateLock, is_held

HOLD = """
import sys
from pathlib import Path
from agent.outbox.state_lock import StateLock
lock = StateLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def holder(state_dir: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_agent_gets_the_pid_of_the_one_that_holds_the_directory(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(OutboxInUseError, match=rf"pid {process.pid}\).*{tmp_path}") as caught:
            StateLock(tmp_path)
        process.kill()

    assert caught.value.exit_code == 74
    assert "systemctl stop" in caught.value.hint


def test_a_killed_agent_leaves_the_directory_free(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        process.kill()

    StateLock(tmp_path).release()


def test_a_released_directory_is_free(tmp_path: Path) -> None:
    StateLock(tmp_path).release()

    assert not is_held(tmp_path)
    StateLock(tmp_path).release()


def test_whether_an_agent_is_there_can_be_asked_without_disturbing_it(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)

    answers = [is_held(tmp_path), is_held(tmp_path)]

    lock.release()
    assert answers == [True, True]


def test_asking_creates_nothing(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)

    mode = stat.S_IMODE((tmp_path / LOCK_FILE).stat().st_mode)

    lock.release()
    assert mode == 0o600


def test_a_full_disk_does_not_keep_the_first_agent_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "pwrite", full)

    StateLock(tmp_path).release()


def test_a_missing_state_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    lock = StateLock(tmp_path / "var" / "badge-agent")

    assert (tmp_path / "var" / "badge-agent").stat().st_mode & 0o777 == 0o700

    lock.release()


def test_a_state_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "nowhere").write_text("")

    with pytest.raises(OutboxError, match=r"nowhere") as caught:
        StateLock(tmp_path / "nowhere")

    assert caught.value.hint


@pytest.mark.usefixtures("unprivileged")
def test_a_directory_that_this_user_may_not_write_is_a_matter_of_permission() -> None:
    with pytest.raises(NotPermittedError, match="cannot write in the state directory /etc") as caught:
        StateLock(Path("/etc"))

    assert "chown" in caught.value.hint
