"""A signal goes to the agent that holds the lock, and to no process that a file names."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.outbox.state_lock import LOCK_FILE, StateLock, signal_holder
from tests.support.paths import ROOT

_HOLD = """
import signal, sys
from pathlib import Path
from agent.outbox.state_lock import StateLock
if {handles}:
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(7))
lock = StateLock(Path({state_dir!r}))
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(state_dir: Path, *, handles: bool) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the lock until its standard input ends."""
    code = _HOLD.format(handles=handles, state_dir=str(state_dir))
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process


def test_the_agent_gets_the_signal(tmp_path: Path) -> None:
    with holding(tmp_path, handles=True) as agent:
        assert signal_holder(tmp_path, signal.SIGUSR1) == agent.pid

        assert agent.wait(timeout=10) == 7


def test_a_process_without_a_handler_is_not_ended(tmp_path: Path) -> None:
    with holding(tmp_path, handles=False) as replay:
        assert signal_holder(tmp_path, signal.SIGUSR1) is None

        replay.communicate("")
        assert replay.returncode == 0


def test_a_process_that_the_file_names_and_that_holds_no_lock_gets_no_signal(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    with holding(elsewhere, handles=True) as other:
        StateLock(tmp_path).release()
        (tmp_path / LOCK_FILE).write_text(f"{other.pid}\n")

        assert signal_holder(tmp_path, signal.SIGUSR1) is None

        other.communicate("")
        assert other.returncode == 0


def test_anything_but_a_number_in_the_file_is_no_process(tmp_path: Path) -> None:
    lock = StateLock(tmp_path)
    for text in ("", "-1", "0", "99999999999999999999", "1 2", "\xff"):
        (tmp_path / LOCK_FILE).write_text(text, encoding="latin-1")

        assert signal_holder(tmp_path, signal.SIGUSR1) is None
    lock.release()
    (tmp_path / LOCK_FILE).unlink()

    assert signal_holder(tmp_path, signal.SIGUSR1) is None
