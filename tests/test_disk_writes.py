"""Without swipes the service writes nothing to disk: real process, real disk, the kernel's counters."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.needs import COUNTED_WRITES, SHARED_MEMORY, needs
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

IDLE_S = 6.0  # longer than the longest pause between two polls for a commit
MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of its own is made in it
# Purges, clock observations and counts for the metrics at intervals short enough for a test.
OFTEN = """
from agent.service import upload_loop
upload_loop._PURGE_EVERY_S = upload_loop._COUNT_EVERY_S = 0.5
"""


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A directory on a disk whose writes the kernel counts."""
    state_dir = tmp_path / "disk"
    state_dir.mkdir(mode=0o700)
    before = bytes_written(os.getpid())
    with (state_dir / "probe").open("wb") as probe:
        probe.write(b"x" * 100_000)
        os.fsync(probe.fileno())
    if bytes_written(os.getpid()) == before:
        needs(COUNTED_WRITES)
    (state_dir / "probe").unlink()
    return state_dir


@pytest.fixture
def memory() -> Iterator[Path]:
    """Where log and runtime directory of a service are: in memory."""
    needs(SHARED_MEMORY)
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        yield Path(name)


@pytest.fixture
def agent(
    tmp_path: Path, state_dir: Path, memory: Path, pipe: EmulatorProcess, line: PtyReader
) -> Iterator[AgentProcess]:
    (memory / "door").mkdir()
    (memory / "door" / "state").symlink_to(state_dir)
    with (
        # Each watchdog notification also writes the status file, in memory.
        ServiceManager(tmp_path / "manager", watchdog_s=1.0) as manager,
        AgentProcess(
            memory / "door",
            url=pipe.url,
            private_key_file=pipe.private_key_file,
            readers=[reader_table(line.device)],
            tables="[uploader]\nbackoff_max_seconds = 1",
            under=manager,
            but_first=OFTEN,
        ) as agent,
    ):
        yield agent


def bytes_written(pid: int) -> int:
    """Bytes that a process caused to be written to disk: proc_pid_io(5)."""
    counters = Path(f"/proc/{pid}/io").read_text()
    return int(counters.partition("\nwrite_bytes:")[2].split()[0])


def files_of(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Every file's size, blocks and time of its last change."""
    stats = {path.name: path.stat() for path in sorted(directory.iterdir())}
    return {name: (stat.st_size, stat.st_blocks, stat.st_mtime_ns) for name, stat in stats.items()}


def assert_nothing_is_written(agent: AgentProcess, state_dir: Path) -> None:
    def is_at_rest() -> bool:
        before = bytes_written(agent.pid)
        time.sleep(2.0)
        return bytes_written(agent.pid) == before

    # What follows the last swipe ends first: the start's door event is stored, sent and committed.
    wait_until(is_at_rest, what="two seconds without a write")
    written, files = bytes_written(agent.pid), files_of(state_dir)

    time.sleep(IDLE_S)

    assert bytes_written(agent.pid) - written == 0
    assert files_of(state_dir) == files


def test_an_idle_agent_writes_nothing_to_disk(agent: AgentProcess, state_dir: Path, line: PtyReader) -> None:
    for tag in range(1, 11):
        line.present(tag)
    agent.wait_until_committed(10)

    assert_nothing_is_written(agent, state_dir)


def test_an_agent_that_waits_for_snowflake_writes_nothing_to_disk(
    agent: AgentProcess, state_dir: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    line.present(1)
    agent.wait_until_committed(1)
    pipe.kill()
    for tag in range(2, 11):
        line.present(tag)
    wait_until(lambda: agent.outbox().pending == 9, what="nine kept swipes")
    wait_until(lambda: agent.status()["uploader"]["consecutive_failures"] >= 2, what="failing tries")

    assert_nothing_is_written(agent, state_dir)


def test_the_status_shows_flushes_and_bytes(
    agent: AgentProcess, pipe: EmulatorProcess, line: PtyReader
) -> None:
    # The clock's first observations and the first curve cost a flush each: without a server nothing follows.
    line.present(1)
    agent.wait_until_committed(1)
    pipe.kill()
    line.present(2)
    wait_until(lambda: agent.status()["uploader"]["consecutive_failures"] >= 2, what="failing tries")
    before = agent.status()["disk"]

    for tag in range(3, 13):
        line.present(tag)
        wait_until(lambda kept=tag: agent.outbox().last_seq == kept, what="a kept swipe")  # type: ignore[misc]
    wait_until(lambda: agent.status()["readers"][0]["swipes"] == 12, what="the news")

    disk = agent.status()["disk"]
    assert disk["flushes"] - before["flushes"] == 10
    # Each is at least one page of 4 KiB, and no more than a handful.
    assert 10 * 4096 <= disk["bytes_written"] - before["bytes_written"] <= 10 * 20 * 4096
