from __future__ import annotations

import hashlib
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from agent.errors import NotPermittedError, OutboxError, OutboxVersionError
from agent.outbox import schema

NEWER_AND_KILLED = """
import os, sys
from pathlib import Path
from agent.outbox import schema
connection = schema.open_for_writing(Path(sys.argv[1]))
connection.execute("PRAGMA user_version=99")
os._exit(0)
"""


@contextmanager
def opened(state_dir: Path) -> Iterator[sqlite3.Connection]:
    with closing(schema.open_for_writing(state_dir)) as connection:
        yield connection


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def test_every_file_of_the_outbox_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)

    with opened(tmp_path):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    os.umask(before)
    assert modes == dict.fromkeys(("outbox.db", "outbox.db-wal", "outbox.db-shm"), 0o600)


def test_a_commit_is_flushed_and_a_swipe_costs_few_pages(tmp_path: Path) -> None:
    with opened(tmp_path) as connection:
        settings = {
            name: pragma(connection, name)
            for name in ("journal_mode", "synchronous", "page_size", "user_version")
        }

    assert settings == {"journal_mode": "wal", "synchronous": 2, "page_size": 1024, "user_version": 1}


def test_the_log_is_grown_at_every_open_and_stays_so(tmp_path: Path) -> None:
    sizes = []
    for _ in range(2):
        with opened(tmp_path) as connection:
            connection.execute("UPDATE state SET committed_seq = committed_seq")
            sizes.append((tmp_path / "outbox.db-wal").stat().st_size)

    assert min(sizes) > 1_000_000


def test_the_outbox_id_is_made_once_per_file(tmp_path: Path) -> None:
    ids = set()
    for _ in range(3):
        with opened(tmp_path) as connection:
            ids.add(connection.execute("SELECT outbox_id FROM state").fetchone()[0])

    assert len(ids) == 1
    assert len(ids.pop()) == 12
    assert schema.new_outbox_id() != schema.new_outbox_id()


def test_a_file_of_a_newer_program_is_refused_and_not_a_byte_of_it_changes(tmp_path: Path) -> None:
    with opened(tmp_path) as connection:
        connection.execute("PRAGMA user_version=2")
    path = tmp_path / "outbox.db"
    before = path.read_bytes()

    with pytest.raises(OutboxVersionError, match=r"schema 2.*up to 1.*untouched"):
        schema.open_for_writing(tmp_path)

    assert path.read_bytes() == before


def test_a_newer_file_that_was_never_closed_keeps_its_log_too(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NEWER_AND_KILLED, str(tmp_path)], check=True)
    paths = [tmp_path / "outbox.db", tmp_path / "outbox.db-wal"]
    before = [hashlib.sha256(path.read_bytes()).digest() for path in paths]

    with pytest.raises(OutboxVersionError, match="schema 99"):
        schema.open_for_writing(tmp_path)

    assert [hashlib.sha256(path.read_bytes()).digest() for path in paths] == before


def test_a_power_cut_right_after_the_file_was_made_is_healed(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").touch(mode=0o600)

    with opened(tmp_path) as connection:
        assert pragma(connection, "user_version") == 1


def test_a_value_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as connection, pytest.raises(sqlite3.IntegrityError):
        connection.execute("INSERT INTO swipes VALUES (1, 'chain', 'noon', x'00')")


def test_a_damaged_file_is_named_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"no database at all" * 100)

    with pytest.raises(OutboxError, match=r"outbox\.db: file is not a database") as caught:
        schema.open_for_writing(tmp_path)

    assert "damaged" in caught.value.hint
    assert caught.value.exit_code == 74


def test_a_missing_outbox_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match=r"outbox\.db"):
        schema.open_for_reading(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    with (
        opened(tmp_path),
        closing(schema.open_for_reading(tmp_path)) as reader,
        pytest.raises(OutboxError, match="readonly") as caught,
        schema.translated(tmp_path / "outbox.db"),
    ):
        reader.execute("DELETE FROM swipes")

    assert "read-only" in caught.value.hint


def test_a_disk_error_points_at_the_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(OutboxError, match="Input/output error") as caught,
        schema.translated(tmp_path / "outbox.db"),
    ):
        raise OSError(5, os.strerror(5))

    assert "dmesg" in caught.value.hint


@pytest.mark.usefixtures("unprivileged")
def test_a_directory_without_permission_is_not_a_disk_fault() -> None:
    with pytest.raises(NotPermittedError, match=r"not permitted to use /etc/outbox\.db"):
        schema.open_for_writing(Path("/etc"))
