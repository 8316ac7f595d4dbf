from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import NotPermittedError, OutboxError, OutboxVersionError
from agent.outbox import Outbox
from agent.outbox.external.connection import is_there
from agent.outbox.recovery.integrity import inspect
from tests.support.swipes import swipe


def make_outbox(state_dir: Path, *, swipes: int = 1) -> Path:
    outbox = Outbox(state_dir, agent_id="door")
    outbox.keep(*(swipe(number) for number in range(1, swipes + 1)))
    outbox.close()
    return state_dir / "outbox.db"


@pytest.mark.parametrize("place", [".", "nowhere", "a-file"])
def test_no_outbox_is_no_error(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").touch()

    assert not is_there(tmp_path / place)


def test_an_outbox_of_ours_is_there(tmp_path: Path) -> None:
    make_outbox(tmp_path)

    assert is_there(tmp_path)


def test_a_directory_closed_to_this_user_is_not_taken_for_an_empty_one(
    tmp_path: Path, unprivileged: None
) -> None:
    del unprivileged  # an unprivileged user, from here on

    with pytest.raises(NotPermittedError, match="may not read") as caught:
        is_there(tmp_path)
    assert "sudo" in caught.value.hint


def test_a_whole_file_is_found_whole_while_an_agent_writes_it(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, agent_id="door")) as outbox:
        outbox.keep(swipe(1))

        inspection = inspect(tmp_path, limit_s=10)

        outbox.keep(swipe(2))
    assert (inspection.faults, inspection.complete) == ((), True)


def test_damage_in_the_middle_is_found(tmp_path: Path) -> None:
    file = make_outbox(tmp_path, swipes=200)
    content = bytearray(file.read_bytes())
    pages = range(0, len(content), 1024)
    with_rows = [at for at in pages if b'"event_id"' in content[at : at + 1024]]
    for at in with_rows[::2]:
        content[at : at + 1024] = b"\xff" * 1024
    file.write_bytes(content)

    inspection = inspect(tmp_path, limit_s=10)

    assert inspection.faults


def test_a_file_that_is_no_database_is_damaged(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"no database " * 1000)

    inspection = inspect(tmp_path, limit_s=10)

    (fault,) = inspection.faults
    assert fault.endswith("file is not a database")


def test_when_time_is_up_it_says_that_it_did_not_see_all(tmp_path: Path) -> None:
    make_outbox(tmp_path, swipes=2000)

    inspection = inspect(tmp_path, limit_s=0)

    assert (inspection.faults, inspection.complete) == ((), False)


def test_a_file_of_a_newer_program_is_left_to_that(tmp_path: Path) -> None:
    file = make_outbox(tmp_path)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE of_the_future(n)")
        connection.execute("PRAGMA user_version=99")

    with pytest.raises(OutboxVersionError, match="schema 99"):
        inspect(tmp_path, limit_s=10)


def test_a_file_that_cannot_be_opened_is_an_outbox_error(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").mkdir()

    with pytest.raises(OutboxError):
        inspect(tmp_path, limit_s=10)
