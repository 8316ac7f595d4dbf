"""Any file in the place of the outbox: the agent starts, or reports why not and changes nothing."""

from __future__ import annotations

import os
import shutil
import socket
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from agent.errors import OutboxError, OutboxVersionError
from agent.outbox import read_counts
from agent.outbox.schema import VERSION
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.flipped_files import flipped, originals
from tests.support.outbox_rig import keep, opened, stored
from tests.support.swipes import swipe, wait_until


def _text(path: Path) -> None:
    path.write_text("not a database\n" * 1_000)


def _link_to_a_file(path: Path) -> None:
    other = path.parent.parent / "other"
    other.mkdir()
    with closing(opened(other)) as outbox:
        keep(outbox, 3)
    path.symlink_to(other / "outbox.db")


def _directory(path: Path) -> None:
    path.mkdir()
    (path / "file").touch()


def _link_to_a_directory(path: Path) -> None:
    (path.parent.parent / "other").mkdir()
    path.symlink_to(path.parent.parent / "other")


def _socket(path: Path) -> None:
    directory = os.open(path.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as listener:  # the path of a socket has 107 bytes at most
        listener.bind(f"/proc/self/fd/{directory}/{path.name}")
    os.close(directory)


def _foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            """CREATE TABLE contacts(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT);
               INSERT INTO contacts VALUES (1, 'x');"""
        )


def _newer(path: Path) -> None:
    with closing(opened(path.parent)) as outbox:
        keep(outbox, 3)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE swipes ADD COLUMN colour TEXT")
        connection.execute(f"PRAGMA user_version={VERSION + 1}")
        connection.commit()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path / "state" / "outbox.db"


@pytest.mark.parametrize("make", [Path.touch, _text, _link_to_a_file])
def test_it_starts_and_takes_swipes(path: Path, make: Callable[[Path], None]) -> None:
    make(path)

    with closing(opened(path.parent)) as outbox:
        outbox.keep(swipe(77))

    assert int(stored(path.parent)[-1]["card_raw"], 16) == 77


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_directory, "is a directory"),
        (_link_to_a_directory, "is a directory"),
        (lambda path: path.symlink_to("nowhere"), "is a link to nowhere, which cannot be followed"),
        (lambda path: path.symlink_to(path), "which cannot be followed"),
        (lambda path: path.symlink_to("/dev/null"), "is a device"),
        (os.mkfifo, "is a FIFO"),
        (_socket, "is a socket"),
        (_foreign, "is the database of another program ('contacts')"),
        (_newer, f"has schema {VERSION + 1}"),
    ],
)
def test_it_reports_in_one_line_why_not_and_changes_nothing(
    path: Path, make: Callable[[Path], None], words: str
) -> None:
    make(path)
    before = _state(path)

    with pytest.raises(OutboxError) as raised:
        opened(path.parent)
    if make is not _foreign:
        with pytest.raises(OutboxError):
            read_counts(path.parent)  # as `status` does, which must not wait either

    assert words in str(raised.value)
    assert "\n" not in str(raised.value) + raised.value.hint
    assert raised.value.exit_code == 74
    assert _state(path) == before
    assert {file.name for file in path.parent.iterdir()} <= {
        "outbox.db",
        "outbox.db-wal",
        "outbox.db-shm",
        "outbox.open.lock",
    }


def _state(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
    return status.st_ino, status.st_mode, status.st_mtime_ns, content


@pytest.mark.parametrize("version", [0, 1, 2, 3, VERSION + 1, 2**20])
def test_a_damaged_version_number_costs_no_row(tmp_path: Path, version: int) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute(f"PRAGMA user_version={version}")

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(6))

    assert [int(row["card_raw"], 16) for row in stored(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_file_that_becomes_a_directory_while_it_runs_is_waited_for(tmp_path: Path) -> None:
    """A newer program's file instead ends the agent; what cannot be opened is a disk that fails."""
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        saved = shutil.copyfile(tmp_path / "outbox.db", tmp_path / "saved")
        (tmp_path / "outbox.db").unlink()
        (tmp_path / "outbox.db").mkdir()
        outbox.file._must_reopen = True

        with pytest.raises(OutboxError) as raised:
            outbox.keep(swipe(4))

        assert not isinstance(raised.value, OutboxVersionError)
        (tmp_path / "outbox.db").rmdir()
        saved.replace(tmp_path / "outbox.db")
        outbox.keep(swipe(4))

    assert len(stored(tmp_path)) == 4


# --- the real process -------------------------------------------------------------------------


@pytest.fixture
def line(tmp_path: Path) -> Iterator[PtyReader]:
    with PtyReader(tmp_path / "reader") as line:
        yield line


@pytest.fixture
def agent(tmp_path: Path, line: PtyReader) -> Iterator[AgentProcess]:
    """Not started yet. Its pipe stores what it delivers."""
    with EmulatorProcess(tmp_path / "pipe") as pipe:
        agent = AgentProcess(
            tmp_path / "door",
            url=pipe.url,
            private_key_file=pipe.private_key_file,
            readers=[reader_table(line.device)],
        )
        yield agent
        agent.__exit__(None, None, None)


@pytest.mark.parametrize("make", [os.mkfifo, _foreign])
def test_the_process_ends_with_exit_code_74_one_line_and_a_hint(
    agent: AgentProcess, make: Callable[[Path], None]
) -> None:
    make(agent.state_dir / "outbox.db")
    before = _state(agent.state_dir / "outbox.db")

    agent.start(wait=False)

    assert agent.ended() == 74
    # Readers are opened first, so that a card presented meanwhile is not lost.
    problem, *hint = [line for line in agent.log.splitlines() if " INFO " not in line]
    assert f"{agent.state_dir / 'outbox.db'} " in problem
    assert len(hint) <= 1
    assert _state(agent.state_dir / "outbox.db") == before


@pytest.mark.parametrize("seed", range(2))
def test_the_process_starts_with_a_flipped_file_and_delivers_new_swipes(
    tmp_path: Path, agent: AgentProcess, line: PtyReader, seed: int
) -> None:
    random = Random(seed)  # noqa: S311 - chances, not secrets
    content, _ = originals(tmp_path)[seed % 2]
    (agent.state_dir / "outbox.db").write_bytes(flipped(content, random))

    with agent:
        line.present(0x01_0063_E9AE)
        wait_until(lambda: agent.outbox().pending == 0, what="no pending swipe")
        last = stored(agent.state_dir)[-1]
        code, _ = agent.end()

    assert last["card_raw"] == "010063E9AE"
    assert code == 0
    assert "Traceback" not in agent.log
