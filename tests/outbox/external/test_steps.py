from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.outbox import Outbox
from agent.outbox.external import holds, replay_queue
from agent.outbox.external.replay_queue import Wanted
from tests.support.outbox_rig import commit, keep, opened, seqs, set_aside
from tests.support.swipes import swipe

HELD = 3_500
Rows = Callable[[Path], Iterator[bytes]]


def held(state_dir: Path) -> Iterator[bytes]:
    return holds.held_rows(state_dir, None)


def replayed(state_dir: Path) -> Iterator[bytes]:
    return replay_queue.rows_in(state_dir, replay_queue.find(state_dir, Wanted(first_seq=1)))


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, HELD)
        commit(outbox, HELD, rejected=(1, HELD))
        yield outbox


@pytest.mark.parametrize("rows", [held, replayed])
def test_a_reader_that_pauses_does_not_let_the_wal_grow(tmp_path: Path, outbox: Outbox, rows: Rows) -> None:
    wal = tmp_path / "outbox.db-wal"
    before = wal.stat().st_size

    paused = rows(tmp_path)
    first = next(paused)
    for _ in range(20):
        outbox.keep(*(swipe(value) for value in range(1, 501)))
    grown = wal.stat().st_size
    rest = list(paused)

    assert grown <= before + 1_000_000  # the rows written meanwhile need 8 MB
    assert seqs([json.loads(row) for row in [first, *rest]]) == list(range(1, HELD + 1))


@pytest.mark.parametrize("rows", [held, replayed])
def test_the_memory_of_a_reader_does_not_depend_on_the_number_of_rows(
    tmp_path: Path, outbox: Outbox, rows: Rows
) -> None:
    keep(outbox, 7 * HELD)
    with outbox.file.writing() as connection:
        connection.execute("UPDATE held SET last_n = ?", (8 * HELD,))
    commit(outbox, 8 * HELD)

    tracemalloc.start()
    count = sum(1 for _ in rows(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert count == 8 * HELD
    assert peak < 6_000_000  # all rows at the same time: 15 MB


def test_rows_of_overlapping_and_separate_holds_come_once_and_in_order(
    tmp_path: Path, outbox: Outbox
) -> None:
    holds.release(tmp_path, None)
    keep(outbox, 60)
    set_aside(outbox, HELD + 2, HELD + 3, HELD + 9, HELD + 30)
    commit(outbox, HELD + 20, rejected=(HELD + 8, HELD + 10))
    commit(outbox, HELD + 60, rejected=(HELD + 10, HELD + 12))

    found = seqs([json.loads(row) for row in holds.held_rows(tmp_path, None)])

    assert found == [HELD + number for number in (2, 3, 8, 9, 10, 11, 12, 30)]
    assert holds.count_held_rows(tmp_path, None) == len(found)


def test_rows_that_are_released_and_purged_during_a_pause_are_missing_and_nothing_else(
    tmp_path: Path, outbox: Outbox
) -> None:
    paused = held(tmp_path)
    first = next(paused)
    with outbox.file.writing() as connection:
        connection.execute("DELETE FROM swipes WHERE n BETWEEN 900 AND 1100")
    rest = list(paused)

    found = seqs([json.loads(row) for row in [first, *rest]])
    assert found == [*range(1, 1001), *range(1101, HELD + 1)]
