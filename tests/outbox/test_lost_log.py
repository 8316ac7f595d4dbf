"""What another process does to the open file: its log is removed, its locks are lost."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import OutboxCorruptError, OutboxReplacedError, OutboxUnavailableError
from agent.outbox import Outbox
from agent.outbox.database import open_external
from tests.support.outbox_rig import opened
from tests.support.swipes import swipe


def keep(outbox: Outbox, value: int) -> None:
    """As the writer: what was not stored is offered again."""
    for _ in range(3):
        try:
            outbox.keep(swipe(value))
        except OutboxUnavailableError:
            continue
        return
    raise AssertionError("it is not stored after three attempts")


def on_the_disk(state_dir: Path, place: Path) -> list[int]:
    """The swipes that the next process would find if this one were killed."""
    shutil.copytree(state_dir, place)
    with closing(sqlite3.connect(place / "outbox.db")) as connection:
        return [n for (n,) in connection.execute("SELECT n FROM swipes ORDER BY n")]


def locks_on(path: Path) -> int:
    """How many POSIX locks this process has on a file."""
    wanted = f"{os.getpid()} ", f":{path.stat().st_ino} "
    return sum(
        "POSIX" in line and all(word in line for word in wanted)
        for line in Path("/proc/locks").read_text().splitlines()
    )


_EVENTS = st.lists(
    st.sampled_from(("keep", "keep", "log", "both", "opens", "ends", "checkpoint")), min_size=3, max_size=25
)


@settings(max_examples=60, deadline=None)
@given(_EVENTS)
def test_a_log_that_is_removed_at_any_moment_costs_no_kept_swipe(
    tmp_path_factory: pytest.TempPathFactory, events: list[str]
) -> None:
    place = tmp_path_factory.mktemp("lost")
    state_dir = place / "state"
    state_dir.mkdir()
    kept = 0
    with closing(opened(state_dir)) as outbox, ExitStack() as others:
        for event in (*events, "keep"):
            match event:
                case "keep":
                    kept += 1
                    keep(outbox, kept)
                case "opens":
                    reader = others.enter_context(closing(open_external(state_dir, "ro")))
                    with suppress(sqlite3.Error):  # it can fail itself while the log has no name
                        reader.execute("SELECT count(*) FROM swipes").fetchone()
                case "ends":
                    others.close()
                case "checkpoint":
                    with suppress(sqlite3.Error), closing(open_external(state_dir, "rw")) as other:
                        other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                case _:
                    for side in {"log": ("-wal",), "both": ("-wal", "-shm")}[event]:
                        (state_dir / f"outbox.db{side}").unlink(missing_ok=True)

        assert on_the_disk(state_dir, place / "killed") == list(range(1, kept + 1))


def test_opening_it_again_keeps_the_locks_that_another_connection_needs(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 1)
        with closing(open_external(tmp_path, "ro")) as other:
            other.execute("SELECT count(*) FROM swipes").fetchone()
            assert locks_on(tmp_path / "outbox.db") > 0

            outbox._file.file.close_for_now()
            keep(outbox, 2)

            assert locks_on(tmp_path / "outbox.db") > 0


def test_a_state_directory_that_is_emptied_is_said_with_the_number_of_swipes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(tmp_path)) as outbox:
        for value in range(1, 6):
            keep(outbox, value)
        for file in tmp_path.glob("outbox.db*"):
            file.unlink()
        with suppress(OutboxReplacedError):
            outbox.keep(swipe(6))
        keep(outbox, 6)

        assert outbox.pending >= 1
    assert "was replaced by another file; 5 swipes of the one before were not confirmed" in caplog.text
    assert "may be lost" not in caplog.text


def test_a_damaged_file_that_is_replaced_is_no_log_that_was_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 1)
        outbox._file.rebuild(OutboxCorruptError("damaged"), outbox.outbox_id)
        keep(outbox, 2)

    assert "removed the log" not in caplog.text
