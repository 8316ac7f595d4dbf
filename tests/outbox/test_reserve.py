from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import OutboxFullError
from agent.outbox.reserve import RESERVE_FILE, Reserve
from tests.support.outbox_rig import commit, keep, opened, rows_after, seqs
from tests.support.swipes import swipe

SIZE = 1_000_000


def occupied(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_the_reserve_really_occupies_its_space(tmp_path: Path) -> None:
    Reserve(tmp_path, SIZE).fill()

    assert occupied(tmp_path / RESERVE_FILE) >= SIZE
    assert (tmp_path / RESERVE_FILE).stat().st_mode & 0o777 == 0o600


def test_no_reserve_is_no_file(tmp_path: Path) -> None:
    Reserve(tmp_path, 0).fill()

    assert list(tmp_path.iterdir()) == []


def test_a_disk_near_its_limit_is_left_alone(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)

    Reserve(tmp_path, disk.f_bavail * disk.f_frsize // 2).fill()

    assert list(tmp_path.iterdir()) == []


def test_freed_it_can_be_made_whole_again(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path, SIZE)
    reserve.fill()
    reserve.free()
    freed = occupied(tmp_path / RESERVE_FILE)
    reserve.free_rest()
    gone = not (tmp_path / RESERVE_FILE).exists()

    reserve.fill()

    assert freed <= SIZE // 2 + 4096
    assert gone
    assert occupied(tmp_path / RESERVE_FILE) >= SIZE


def test_a_reserve_cut_short_by_a_power_cut_is_filled_again(tmp_path: Path) -> None:
    (tmp_path / RESERVE_FILE).write_bytes(b"\0" * 100)

    Reserve(tmp_path, SIZE).fill()

    assert occupied(tmp_path / RESERVE_FILE) >= SIZE


@pytest.mark.usefixtures("unprivileged")
def test_a_disk_that_takes_no_change_is_no_fault_of_the_reserve() -> None:
    reserve = Reserve(Path("/etc"), SIZE)

    reserve.fill()
    reserve.free()
    reserve.free_rest()

    assert not Path("/etc", RESERVE_FILE).exists()


def test_a_full_disk_frees_the_reserve_and_what_is_committed_and_takes_the_swipe(tmp_path: Path) -> None:
    with closing(opened(tmp_path, reserve_bytes=SIZE)) as outbox:
        keep(outbox, 2000)
        commit(outbox, 2000)
        outbox.file._writer.execute("PRAGMA max_page_count=1")  # SQLite: not one page more than there are

        for value in range(300):
            outbox.keep(swipe(value))

        assert seqs(rows_after(outbox, 2000)) == list(range(2001, 2301))
        assert occupied(tmp_path / RESERVE_FILE) < SIZE


def test_a_full_disk_with_nothing_left_to_free_refuses_the_swipe_and_recovers_by_itself(
    tmp_path: Path,
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        outbox.file._writer.execute("PRAGMA max_page_count=1")
        with pytest.raises(OutboxFullError):
            outbox.keep(*(swipe(value) for value in range(5000)))

        outbox.file._writer.execute("PRAGMA max_page_count=1000000")
        outbox.keep(swipe(4))

        assert seqs(rows_after(outbox)) == [1, 2, 3, 4]


@pytest.mark.parametrize("size", [0, SIZE])
def test_room_again_ends_the_full_state_with_and_without_a_reserve(tmp_path: Path, size: int) -> None:
    reserve = Reserve(tmp_path, size)
    reserve.fill()
    reserve.free()

    reserve.fill()

    assert not reserve.gave_way


def test_a_disk_that_is_still_full_stays_so_without_a_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = Reserve(tmp_path, 0)
    reserve.free()
    disk = os.statvfs(tmp_path)
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((*disk[:3], 0, 0, *disk[5:])))

    reserve.fill()

    assert reserve.gave_way
