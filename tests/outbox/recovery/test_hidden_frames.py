"""Changed bytes of the write-ahead log, found by the start after a crash."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import OutboxError
from agent.outbox.database import OUTBOX_FILE, PAGE_BYTES
from agent.outbox.external.connection import outbox_connection
from agent.outbox.recovery.hidden_frames import hides_commits
from agent.outbox.recovery.quarantine import copies
from tests.support.outbox_rig import opened, stored
from tests.support.swipes import swipe

SWIPES = 40
HEADER_BYTES, FRAME_BYTES = 32, 24 + PAGE_BYTES


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a process that died after many small transactions."""
    state_dir, copy = tmp_path_factory.mktemp("running"), tmp_path_factory.mktemp("crashed") / "state"
    with closing(opened(state_dir)) as outbox:
        for number in range(1, SWIPES + 1):
            with outbox.file.writing(durable=False) as connection:  # as of a confirmed position
                connection.execute("UPDATE boots SET last_us = last_us + 1")
            outbox.keep(swipe(number))
        shutil.copytree(state_dir, copy)
    return copy


def log_of(state_dir: Path) -> Path:
    return state_dir / "outbox.db-wal"


def frames_written(log: Path) -> int:
    """How many frames of the log have its salts."""
    content = log.read_bytes()
    ends = range(HEADER_BYTES, len(content), FRAME_BYTES)
    return sum(content[begin + 8 : begin + 16] == content[16:24] for begin in ends)


def cards(state_dir: Path) -> list[int]:
    return [int(row["card_raw"], 16) for row in stored(state_dir)]


def test_a_whole_log_hides_nothing(crashed: Path, tmp_path: Path) -> None:
    state_dir = shutil.copytree(crashed, tmp_path / "state")

    assert frames_written(log_of(state_dir)) >= SWIPES
    assert not hides_commits(state_dir / OUTBOX_FILE)
    with closing(opened(state_dir)):
        assert cards(state_dir) == list(range(1, SWIPES + 1))
    assert not copies(state_dir)


@settings(max_examples=15)
@given(st.data())
def test_a_changed_byte_of_the_log_costs_no_swipe_before_the_last_two(
    crashed: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    state_dir = shutil.copytree(crashed, tmp_path_factory.mktemp("copy") / "state")
    log = log_of(state_dir)
    content = bytearray(log.read_bytes())
    end = HEADER_BYTES + frames_written(log) * FRAME_BYTES
    place = data.draw(st.integers(0, end - 1) | st.integers(0, HEADER_BYTES - 1))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    log.write_bytes(content)

    with closing(opened(state_dir)) as outbox:
        outbox.keep(swipe(SWIPES + 1))
        found = cards(state_dir)

    missing = set(range(1, SWIPES + 2)) - set(found)
    assert missing <= {SWIPES - 1, SWIPES}
    assert len(found) == len(set(found))


def test_a_log_whose_pages_are_in_the_file_hides_nothing_without_its_header(tmp_path: Path) -> None:
    (running := tmp_path / "running").mkdir()
    with closing(opened(running)) as outbox:
        outbox.keep(*map(swipe, range(1, SWIPES + 1)))
        with outbox.file.writing() as connection:
            connection.execute("UPDATE boots SET boot_id = boot_id")
        outbox.file._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        state_dir = shutil.copytree(running, tmp_path / "state")
    log = log_of(state_dir)
    assert frames_written(log) > 0
    log.write_bytes(bytes(HEADER_BYTES) + log.read_bytes()[HEADER_BYTES:])

    with closing(opened(state_dir)):
        assert cards(state_dir) == list(range(1, SWIPES + 1))
    assert not copies(state_dir)


def test_a_log_whose_first_sectors_were_erased_gives_back_the_swipes_after_them(
    crashed: Path, tmp_path: Path
) -> None:
    state_dir = shutil.copytree(crashed, tmp_path / "state")
    log = log_of(state_dir)
    erased = 16_384
    log.write_bytes(bytes(erased) + log.read_bytes()[erased:])

    with closing(opened(state_dir)):
        found = cards(state_dir)

    # The erased pages have newer copies further on.
    assert found == list(range(1, SWIPES + 1))


def test_no_command_may_write_to_an_outbox_whose_log_hides_swipes(crashed: Path, tmp_path: Path) -> None:
    state_dir = shutil.copytree(crashed, tmp_path / "state")
    log = log_of(state_dir)
    content = bytearray(log.read_bytes())
    content[HEADER_BYTES + 20 * FRAME_BYTES + 100] ^= 1
    log.write_bytes(content)

    with pytest.raises(OutboxError, match="is damaged"), outbox_connection(state_dir, "rw"):
        pytest.fail("it was opened")
    with outbox_connection(state_dir, "ro"):
        pass

    with closing(opened(state_dir)):
        assert cards(state_dir) == list(range(1, SWIPES + 1))


def test_a_log_of_zeros_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / OUTBOX_FILE).write_bytes(bytes(PAGE_BYTES))
    with log_of(tmp_path).open("wb") as log:
        log.truncate(HEADER_BYTES + 1_000 * FRAME_BYTES)

    assert not hides_commits(tmp_path / OUTBOX_FILE)


def test_one_transaction_that_was_not_flushed_is_no_damage(crashed: Path, tmp_path: Path) -> None:
    state_dir = shutil.copytree(crashed, tmp_path / "state")
    log = log_of(state_dir)
    content = bytearray(log.read_bytes())
    last = HEADER_BYTES + (frames_written(log) - 1) * FRAME_BYTES
    content[last - FRAME_BYTES : last] = bytes(FRAME_BYTES)
    log.write_bytes(content)

    with closing(opened(state_dir)):
        assert cards(state_dir) == list(range(1, SWIPES))
    assert not copies(state_dir)
