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

from agent.errors import (
    NotPermittedError,
    OutboxCorruptError,
    OutboxError,
    OutboxFullError,
    OutboxVersionError,
)
from agent.outbox import database as outbox_file
from agent.outbox import schema
from agent.outbox.database import PAGE_BYTES, OutboxFile, open_external
from agent.outbox.file_errors import translated
from agent.outbox.records import new_outbox_id

NEWER_AND_KILLED = """
import os, sys
from pathlib import Path
from agent.outbox.database import OutboxFile
with OutboxFile(Path(sys.argv[1])).writing() as connection:
    connection.execute("CREATE TABLE of_the_future(n)")
    connection.execute("PRAGMA user_version=99")
os._exit(0)
"""


@contextmanager
def opened(state_dir: Path) -> Iterator[OutboxFile]:
    with closing(OutboxFile(state_dir)) as file:
        yield file


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


def digests(state_dir: Path) -> list[bytes]:
    paths = [state_dir / "outbox.db", state_dir / "outbox.db-wal"]
    return [hashlib.sha256(path.read_bytes()).digest() for path in paths if path.exists()]


def test_every_file_of_the_outbox_is_for_its_owner_alone(tmp_path: Path) -> None:
    before = os.umask(0)

    with opened(tmp_path):
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    os.umask(before)
    assert modes == dict.fromkeys(("outbox.db", "outbox.db-wal", "outbox.db-shm"), 0o600)


def test_a_commit_is_flushed_and_a_swipe_costs_few_pages(tmp_path: Path) -> None:
    with opened(tmp_path) as file, file.writing() as connection:
        settings = {
            name: pragma(connection, name)
            for name in ("journal_mode", "synchronous", "page_size", "user_version")
        }

    assert settings == {
        "journal_mode": "wal",
        "synchronous": 2,
        "page_size": PAGE_BYTES,
        "user_version": schema.VERSION,
    }


def test_after_a_write_that_need_not_be_flushed_the_next_one_is(tmp_path: Path) -> None:
    with opened(tmp_path) as file:
        with file.writing(durable=False) as connection:
            meanwhile = pragma(connection, "synchronous")
        with file.writing() as connection:
            afterwards = pragma(connection, "synchronous")

    assert (meanwhile, afterwards) == (1, 2)


def test_a_write_that_fails_leaves_nothing_and_the_next_one_is_flushed(tmp_path: Path) -> None:
    with opened(tmp_path) as file:

        def fail_halfway() -> None:
            with file.writing(durable=False) as connection:
                connection.execute("UPDATE state SET unreadable = 9")
                connection.execute("DELETE FROM nowhere")

        with pytest.raises(OutboxError, match="no such table"):
            fail_halfway()

        with file.writing() as connection:
            left = connection.execute("SELECT unreadable FROM state").fetchone()
            synchronous = pragma(connection, "synchronous")

    assert (left, synchronous) == ((0,), 2)


def test_the_log_is_grown_at_every_open_and_stays_so(tmp_path: Path) -> None:
    sizes = []
    for _ in range(2):
        with opened(tmp_path) as file, file.writing() as connection:
            connection.execute("UPDATE state SET unreadable = unreadable")
            sizes.append((tmp_path / "outbox.db-wal").stat().st_size)

    assert min(sizes) > 1_000_000


def test_a_disk_too_full_to_grow_the_log_is_no_reason_not_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_a_small_disk(path: Path, mode: str) -> sqlite3.Connection:
        connection = connect(path, mode)
        connection.execute("PRAGMA max_page_count=40")
        return connection

    connect = outbox_file._connect
    monkeypatch.setattr(outbox_file, "_connect", on_a_small_disk)

    with opened(tmp_path) as file:
        with file.writing() as connection:
            connection.execute("INSERT INTO swipes(n, chain, row) VALUES (1, 'chain', x'00')")

        with file.reading() as connection:
            assert connection.execute("SELECT count(*) FROM swipes").fetchone() == (1,)


def test_the_outbox_id_is_made_once_per_file(tmp_path: Path) -> None:
    ids = set()
    for _ in range(3):
        with opened(tmp_path) as file, file.reading() as connection:
            ids.add(connection.execute("SELECT outbox_id FROM generation").fetchone()[0])

    assert len(ids) == 1
    assert len(ids.pop()) == 12
    assert new_outbox_id() != new_outbox_id()


def test_a_file_of_a_newer_program_is_refused_and_not_a_byte_of_it_changes(tmp_path: Path) -> None:
    newer = schema.VERSION + 1
    with opened(tmp_path) as file, file.writing() as connection:
        connection.execute("CREATE TABLE of_the_future(n)")
        connection.execute(f"PRAGMA user_version={newer}")
    before = (tmp_path / "outbox.db").read_bytes()

    with pytest.raises(OutboxVersionError, match=rf"schema {newer}.*up to {schema.VERSION}.*untouched"):
        OutboxFile(tmp_path)

    assert (tmp_path / "outbox.db").read_bytes() == before


def test_a_newer_file_that_was_never_closed_keeps_its_log_too(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", NEWER_AND_KILLED, str(tmp_path)], check=True)
    before = digests(tmp_path)

    with pytest.raises(OutboxVersionError, match="schema 99"):
        OutboxFile(tmp_path)

    assert len(before) == 2
    assert digests(tmp_path) == before


def test_a_power_cut_right_after_the_file_was_made_is_healed(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").touch(mode=0o600)

    with opened(tmp_path) as file, file.reading() as connection:
        assert pragma(connection, "user_version") == schema.VERSION


def test_a_value_of_the_wrong_type_is_refused(tmp_path: Path) -> None:
    with (
        opened(tmp_path) as file,
        pytest.raises(OutboxError, match="cannot store TEXT"),
        file.writing() as connection,
    ):
        connection.execute("INSERT INTO swipes(n, chain, trusted_us, row) VALUES (1, 'chain', 'noon', x'00')")


def test_a_damaged_file_is_named_as_damaged(tmp_path: Path) -> None:
    (tmp_path / "outbox.db").write_bytes(b"no database at all" * 100)

    with pytest.raises(OutboxCorruptError, match=r"outbox\.db: file is not a database") as caught:
        OutboxFile(tmp_path)

    assert "set aside" in caught.value.hint
    assert caught.value.exit_code == 74


def test_a_missing_outbox_is_not_made_by_looking(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match=r"outbox\.db"):
        open_external(tmp_path, "ro")

    assert list(tmp_path.iterdir()) == []


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    with (
        opened(tmp_path),
        closing(open_external(tmp_path, "ro")) as reader,
        pytest.raises(OutboxError, match="readonly") as caught,
        translated(tmp_path / "outbox.db"),
    ):
        reader.execute("DELETE FROM swipes")

    assert "read-only" in caught.value.hint


def test_a_disk_error_points_at_the_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(OutboxError, match="Input/output error") as caught,
        translated(tmp_path / "outbox.db"),
    ):
        raise OSError(5, os.strerror(5))

    assert "dmesg" in caught.value.hint


def test_a_full_disk_is_distinguished_from_a_broken_one(tmp_path: Path) -> None:
    with (
        pytest.raises(OutboxFullError, match="No space left") as caught,
        translated(tmp_path / "outbox.db"),
    ):
        raise OSError(28, os.strerror(28))

    assert "df -h" in caught.value.hint


@pytest.mark.usefixtures("unprivileged")
def test_a_directory_without_permission_is_not_a_disk_fault() -> None:
    with pytest.raises(NotPermittedError, match=r"not permitted to use /etc/outbox\.db"):
        OutboxFile(Path("/etc"))
