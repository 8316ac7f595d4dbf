"""Rows of a damaged file are moved in steps: new swipes, crashes and further damage in between."""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.errors import OutboxCorruptError, OutboxFullError, OutboxUnavailableError
from agent.outbox import LiveRows, Outbox, ReplayRows, read_counts
from agent.outbox.database import PAGE_BYTES
from agent.outbox.external import holds, replay_queue
from agent.outbox.recovery import progress, row_mover, sectors
from agent.outbox.recovery.damaged_file import DamagedFile
from agent.outbox.recovery.found_rows import FoundRows
from agent.outbox.recovery.holes import Holes, row_numbers
from agent.outbox.recovery.quarantine import copies
from agent.service.inspector import Inspector
from agent.service.status_file import read_status
from tests.support.outbox_rig import PLENTY, commit, keep, opened, pending_rows, recover, rows_after, stored
from tests.support.swipes import swipe, wait_until

ROWS, COMMITTED = 300, 100
FAULT = OutboxCorruptError("outbox.db: malformed")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_mover, "_STEP_ROWS", 30)


@pytest.fixture
def outbox(tmp_path: Path, small_steps: None) -> Iterator[Outbox]:
    """Damaged while it was in use: no row is moved yet."""
    del small_steps
    (tmp_path / "state").mkdir()
    with closing(opened(tmp_path / "state")) as box:
        keep(box, ROWS)
        commit(box, COMMITTED)
        box._file.rebuild(FAULT, box.outbox_id)
        yield box


def cards(rows: list[dict[str, object]]) -> list[int]:
    return [int(str(row["card_raw"]), 16) for row in rows]


def crashed(outbox: Outbox, directory: Path) -> Outbox:
    """Another process that finds the files as they are at this moment."""
    copy_files(outbox, directory)
    return opened_without_recovery(directory)


def copy_files(outbox: Outbox, directory: Path) -> None:
    directory.mkdir()
    for path in outbox.file.path.parent.glob("outbox.db*"):
        if not path.name.endswith("-shm"):
            shutil.copyfile(path, directory / path.name)


def opened_without_recovery(state_dir: Path) -> Outbox:
    return Outbox(state_dir, agent_id="hq-lobby-1")


# --- new swipes ---------------------------------------------------------------------------------------


def test_a_swipe_is_stored_after_the_damage_before_any_old_row_is_moved(outbox: Outbox) -> None:
    outbox.keep(swipe(ROWS + 1))

    assert outbox.pending == read_counts(outbox.file.path.parent).pending == 1
    assert cards(stored(outbox.file.path.parent)) == [ROWS + 1]


def test_no_row_is_sent_before_every_older_one_is_there(outbox: Outbox) -> None:
    live = LiveRows(outbox)
    value, withheld = ROWS, list[bool]()
    while outbox.recover_step() and outbox.state.is_withheld:
        value += 1
        outbox.keep(swipe(value))
        batch = live.after(live.committed, PLENTY, max_bytes=10**9)
        withheld.append(batch is None and not live.has_after(live.committed) and not live.needs_channel())

    recover(outbox)

    assert withheld == [True] * len(withheld)
    assert len(withheld) >= 200 // 30
    assert cards(pending_rows(outbox)) == list(range(COMMITTED + 1, value + 1))
    assert cards(rows_after(outbox)) == list(range(COMMITTED + 1, ROWS + 1))


def test_delivery_continues_before_the_committed_rows_are_moved(outbox: Outbox) -> None:
    while outbox.state.is_withheld:
        assert outbox.recover_step()

    assert [one.part for one in outbox.state.recoveries] == [progress.KEPT]
    assert cards(rows_after(outbox)) == list(range(COMMITTED + 1, ROWS + 1))
    commit(outbox, 200)
    recover(outbox)

    assert cards(stored(outbox.file.path.parent)) == list(range(1, ROWS + 1))
    assert outbox.pending == 0
    assert copies(outbox.file.path.parent) == []


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE swipes SET boot_us = boot_us + 4 WHERE n = 3",
        "UPDATE swipes SET row = x'7b' WHERE n = 3",
    ],
)
def test_a_file_with_a_damaged_committed_row_is_kept(tmp_path: Path, change: str) -> None:
    with closing(opened(tmp_path)) as box:
        keep(box, 9)
        commit(box, 5)
        with box.file.writing() as connection:
            connection.execute(change)
        box._file.rebuild(FAULT, box.outbox_id)

        recover(box)

        assert cards(stored(tmp_path)) == [1, 2, 4, 5, 6, 7, 8, 9]
        assert [path.name for path in copies(tmp_path)] == ["outbox.db.corrupt-1"]


def test_a_replay_waits_until_its_rows_are_there(outbox: Outbox) -> None:
    state_dir, replays = outbox.file.path.parent, ReplayRows(outbox)
    replay_queue.request(state_dir, [replay_queue.Range(5, 9, None, 5)])

    waited = list[bool]()
    while outbox.state.recoveries:
        waited.append(replays.needs_channel())
        outbox.recover_step()

    batch = replays.after(replays.committed, PLENTY, max_bytes=10**9)
    assert not any(waited)
    assert replays.needs_channel()
    assert batch is not None
    assert len(batch.rows) == 5


def test_swipes_do_not_wait_for_the_inspector(outbox: Outbox) -> None:
    """The thread as it runs in the agent."""
    recovered = threading.Event()
    inspector = Inspector(outbox, recovered=recovered.set)
    thread = threading.Thread(target=inspector.run, args=(lambda _busy: None,))
    thread.start()

    value = ROWS
    while not recovered.is_set() or outbox.state.recoveries:
        value += 1
        outbox.keep(swipe(value))
    outbox._file.rebuild(FAULT, outbox.outbox_id)  # found by another thread, while the inspector is idle
    wait_until(lambda: not outbox.state.recoveries, what="a second recovery")
    inspector.stop()
    thread.join(10.0)

    assert not thread.is_alive()
    assert cards(pending_rows(outbox)) == list(range(COMMITTED + 1, value + 1))


# --- interrupted --------------------------------------------------------------------------------------


def test_a_crash_after_any_step_loses_no_row_and_repeats_none(outbox: Outbox, tmp_path: Path) -> None:
    more, number = True, 0
    while more:
        number += 1
        outbox.keep(swipe(ROWS + number))
        with closing(crashed(outbox, tmp_path / f"crash-{number}")) as after:
            recover(after)

            assert cards(pending_rows(after)) == list(range(COMMITTED + 1, ROWS + number + 1))
            assert cards(stored(after.file.path.parent)) == list(range(1, ROWS + number + 1))
            assert copies(after.file.path.parent) == []
        more = outbox.recover_step()

    assert number > 10


def test_a_restart_goes_on_where_the_last_step_ended(outbox: Outbox, tmp_path: Path) -> None:
    for _ in range(3):
        outbox.recover_step()

    with closing(crashed(outbox, tmp_path / "crash")) as after:
        (recovery,) = after.state.recoveries
        assert (recovery.first_n, recovery.done, recovery.total) == (COMMITTED + 91, 90, 200)
        assert after.pending == 90


def test_the_new_file_damaged_during_the_recovery_costs_nothing_that_is_readable(outbox: Outbox) -> None:
    for _ in range(3):
        outbox.recover_step()
    outbox.keep(swipe(ROWS + 1))
    outbox._file.rebuild(FAULT, outbox.outbox_id)
    outbox.keep(swipe(ROWS + 2))

    names = [one.name for one in outbox.state.recoveries]
    recover(outbox)

    assert names == ["outbox.db.corrupt-2", "outbox.db.corrupt-1"]
    assert cards(pending_rows(outbox)) == list(range(COMMITTED + 1, ROWS + 3))
    assert cards(stored(outbox.file.path.parent)) == list(range(1, ROWS + 3))
    assert holds.holds(outbox.file.path.parent) == []
    assert copies(outbox.file.path.parent) == []


def test_a_quarantined_file_that_is_gone_is_counted_as_lost(outbox: Outbox) -> None:
    (outbox.file.path.parent / "outbox.db.corrupt-1").unlink()

    recover(outbox)
    outbox.keep(swipe(ROWS + 1))

    assert cards(rows_after(outbox)) == [ROWS + 1]
    assert read_counts(outbox.file.path.parent).unreadable == ROWS - COMMITTED
    assert [hold.rows for hold in holds.holds(outbox.file.path.parent)] == [ROWS - COMMITTED]


def test_a_new_file_that_cannot_be_opened_keeps_the_names_of_the_files_before_it(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is damaged before its state was ever read: the state in memory is that of the file before it."""
    outbox.keep(swipe(ROWS + 1))
    errors, real = ["SQLITE_IOERR", "SQLITE_IOERR", "SQLITE_CORRUPT"], sqlite3.connect

    def connect(name: str, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - as it is given
        if errors and "/outbox.db?mode=rw" in str(name):
            error = sqlite3.OperationalError("the disk fails")
            error.sqlite_errorname = errors.pop(0)
            raise error
        connection: sqlite3.Connection = real(name, **options)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    with suppress(OutboxUnavailableError):
        outbox._file.rebuild(FAULT, outbox.outbox_id)
    while errors:
        with suppress(OutboxUnavailableError):
            outbox.keep(swipe(ROWS + 2))
    recover(outbox)

    assert len(copies(outbox.file.path.parent)) == 0
    assert cards(pending_rows(outbox)) == list(range(COMMITTED + 1, ROWS + 3))


def test_the_files_that_a_lost_record_names_are_not_deleted(outbox: Outbox, tmp_path: Path) -> None:
    outbox.keep(swipe(ROWS + 1))
    outbox._file.rebuild(FAULT, outbox.outbox_id)
    outbox.keep(swipe(ROWS + 2))
    state_dir = tmp_path / "copy"
    copy_files(outbox, state_dir)
    without_the_page_of_the_state(state_dir / "outbox.db")

    with closing(opened_without_recovery(state_dir)) as again:
        again.keep(swipe(ROWS + 3))
        again._file.rebuild(FAULT, again.outbox_id)  # the fourth damaged file
        again.keep(swipe(ROWS + 4))
        parts = [one.part for one in again.state.recoveries]
        recover(again)

        assert parts == [progress.PENDING, progress.STATE]
        assert cards(pending_rows(again)) == list(range(COMMITTED + 1, ROWS + 5))


def without_the_page_of_the_state(path: Path) -> None:
    """SQLite no longer reads the state record; its bytes are there."""
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'state'").fetchone()
    content = bytearray(path.read_bytes())
    content[(page - 1) * PAGE_BYTES] = 0
    path.write_bytes(content)


# --- what is shown ------------------------------------------------------------------------------------


def test_status_shows_how_far_the_recovery_is(outbox: Outbox) -> None:
    state_dir = outbox.file.path.parent
    outbox.recover_step()
    size = (state_dir / "outbox.db.corrupt-1").stat().st_size

    during = read_status("hq-lobby-1", state_dir, state_dir)["outbox"]["recovering"]
    recover(outbox)

    expected = {"file": "outbox.db.corrupt-1", "rows": "pending", "done": 30, "total": 200}
    assert during == expected | {"searched_bytes": 0, "bytes": size}
    assert read_status("hq-lobby-1", state_dir, state_dir)["outbox"]["recovering"] is None


@pytest.fixture
def search_in_small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step for each piece of four pages, and a note of the progress at each."""
    monkeypatch.setattr(sectors, "PIECE_BYTES", 4 * PAGE_BYTES)
    monkeypatch.setattr(row_mover, "_STEP_S", 0.0)
    monkeypatch.setattr(row_mover, "_NOTE_S", 0.0)


@pytest.mark.usefixtures("search_in_small_steps")
def test_the_search_of_the_bytes_goes_in_steps_beside_new_swipes_and_status_shows_it(
    outbox: Outbox,
) -> None:
    state_dir = outbox.file.path.parent
    lost = without_a_page(state_dir / "outbox.db.corrupt-1")

    shown, value = list[int](), ROWS
    while outbox.recover_step() and outbox.state.is_withheld:
        value += 1
        outbox.keep(swipe(value))
        shown.append(
            read_status("hq-lobby-1", state_dir, state_dir)["outbox"]["recovering"]["searched_bytes"]
        )
    recover(outbox)

    pieces = (state_dir / "outbox.db.corrupt-1").stat().st_size // (4 * PAGE_BYTES)
    assert shown == sorted(shown)
    assert len(set(shown)) >= pieces
    assert cards(rows_after(outbox)) == [card for card in range(COMMITTED + 1, ROWS + 1) if card not in lost]


@pytest.mark.usefixtures("search_in_small_steps")
def test_a_lock_of_another_process_does_not_begin_the_search_again(
    outbox: Outbox,
) -> None:
    state_dir = outbox.file.path.parent
    lost = without_a_page(state_dir / "outbox.db.corrupt-1")
    while not any(one.searched_bytes for one in outbox.state.recoveries):
        outbox.recover_step()
    searched = outbox._mover._searched

    outbox.file._limit_wait(0.0)
    with closing(sqlite3.connect(outbox.file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        outbox.recover_step()
        still_searched = outbox._mover._searched
    recover(outbox)

    assert still_searched == searched
    assert cards(rows_after(outbox)) == [card for card in range(COMMITTED + 1, ROWS + 1) if card not in lost]


def without_a_page(path: Path) -> set[int]:
    """Damage a page with pending rows; the cards in it."""
    content = bytearray(path.read_bytes())
    place = content.index(b'"card_raw":"00000000C8"') // PAGE_BYTES * PAGE_BYTES
    numbers = set(row_numbers(bytes(content[place : place + PAGE_BYTES])))
    content[place : place + PAGE_BYTES] = bytes(PAGE_BYTES)
    path.write_bytes(content)
    return numbers


def test_rows_are_read_by_number_without_the_damaged_pages_after_them(outbox: Outbox) -> None:
    path = outbox.file.path.with_name("outbox.db.corrupt-1")
    assert 200 in without_a_page(path)

    with closing(DamagedFile(path)) as damaged:
        found = [one[0].n for one in damaged.numbered(1, 120) if one is not None]

        assert found == list(range(1, 121))
        assert not damaged.had_errors


def test_the_search_by_chains_can_pause_after_each_gap(outbox: Outbox) -> None:
    path = outbox.file.path.with_name("outbox.db.corrupt-1")

    with closing(DamagedFile(path)) as damaged:
        found = FoundRows(damaged, {}, lambda _page: False)

        assert list(found.linked([(1, "0" * 32), (5, "1" * 32)])) == [None, None]


# --- a disk that is short of space --------------------------------------------------------------------


def test_pages_of_moved_rows_are_given_back_and_no_others(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarantined = outbox.file.path.parent / "outbox.db.corrupt-1"
    before = quarantined.read_bytes()
    outbox.recover_step()
    real = os.statvfs
    calls = iter([0])

    def short_once(path: os.PathLike[str]) -> os.statvfs_result:
        found = list(real(path))
        found[4] = next(calls, found[4])  # f_bavail
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", short_once)
    outbox.recover_step()

    after = quarantined.read_bytes()
    assert len(after) == len(before)
    pages = range(0, len(before), PAGE_BYTES)
    punched = [at for at in pages if after[at : at + PAGE_BYTES] != before[at : at + PAGE_BYTES]]
    assert punched
    for at in punched:
        assert after[at : at + PAGE_BYTES] == bytes(PAGE_BYTES)
        assert b'"event_id"' in before[at : at + PAGE_BYTES]
    recover(outbox)
    assert cards(pending_rows(outbox)) == list(range(COMMITTED + 1, ROWS + 1))


def test_without_room_the_recovery_waits_and_swipes_are_stored(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def short(path: os.PathLike[str]) -> os.statvfs_result:
        found = list(real(path))
        found[4] = 0
        return os.statvfs_result(found)

    with monkeypatch.context() as patched:
        patched.setattr(os, "statvfs", short)
        for _ in range(3):
            with pytest.raises(OutboxFullError, match="no room"):
                outbox.recover_step()
            outbox.keep(swipe(ROWS + 1))
    recover(outbox)

    assert cards(pending_rows(outbox)) == [*range(COMMITTED + 1, ROWS + 1), *[ROWS + 1] * 3]


def test_committed_rows_without_room_stay_in_the_quarantined_file(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    while outbox.state.is_withheld:
        outbox.recover_step()
    real = os.statvfs

    def short(path: os.PathLike[str]) -> os.statvfs_result:
        found = list(real(path))
        found[4] = 0
        return os.statvfs_result(found)

    monkeypatch.setattr(os, "statvfs", short)
    monkeypatch.setattr(Holes, "punch", lambda *_: 0)
    recover(outbox)

    assert outbox.state.recoveries == ()
    assert cards(stored(outbox.file.path.parent)) == list(range(COMMITTED + 1, ROWS + 1))
    assert [path.name for path in copies(outbox.file.path.parent)] == ["outbox.db.corrupt-1"]
