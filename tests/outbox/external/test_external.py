from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import NotPermittedError, OutboxError
from agent.outbox import Outbox, generation, read_counts
from agent.outbox.external import holds, replay_queue
from agent.outbox.external.replay_queue import Wanted
from agent.outbox.records import Generation, new_outbox_id
from agent.readers.events import raw_hex
from tests.support.outbox_rig import commit, keep, looked_up, opened, purge, seqs, set_aside
from tests.support.paths import ROOT
from tests.support.swipes import swipe


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(opened(tmp_path)) as outbox:
        yield outbox


def elsewhere(statement: str, state_dir: Path) -> str:
    """What a statement prints in a process of its own."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        "from agent.outbox.external import counts, holds, replay_queue\nd = Path(sys.argv[1])\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code + statement, str(state_dir)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout


# --- looking ----------------------------------------------------------------------------------


def test_another_process_counts_what_the_agent_keeps(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 10)
    set_aside(outbox, 9)
    commit(outbox, 6, rejected=(2, 4))

    output = elsewhere(
        "c = counts.read_counts(d); print(c.pending, c.kept, c.rejected, c.set_aside)", tmp_path
    )

    assert output.split() == ["3", "6", "3", "1"]


@pytest.mark.parametrize("look", [holds.holds, read_counts])
def test_an_unprivileged_user_gets_the_hint_to_use_sudo(
    tmp_path: Path, unprivileged: None, look: Callable[[Path], object]
) -> None:
    del unprivileged  # an unprivileged user, from here on

    with pytest.raises(NotPermittedError, match="may not read") as caught:
        look(tmp_path)
    assert "sudo" in caught.value.hint


def test_rows_set_aside_are_neither_pending_nor_kept(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 6)
    set_aside(outbox, 2, 6)
    commit(outbox, 4)

    counts = read_counts(tmp_path)

    assert (counts.pending, counts.kept, counts.set_aside) == (1, 3, 2)
    assert outbox.pending == 1


def test_the_oldest_pending_row_is_none_that_is_set_aside(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 3)
    set_aside(outbox, 1)

    oldest = read_counts(tmp_path).oldest_pending_row

    assert oldest is not None
    assert int(json.loads(oldest)["card_raw"], 16) == 2


def test_held_rows_that_outlive_a_purge_are_counted_as_kept(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 10)
    commit(outbox, 8, rejected=(2, 4))
    purge(outbox, 100)

    assert read_counts(tmp_path).kept == 3


def test_an_empty_outbox_counts_nothing(tmp_path: Path, outbox: Outbox) -> None:
    counts = read_counts(tmp_path)

    assert (counts.pending, counts.kept, counts.rejected, counts.set_aside) == (0, 0, 0, 0)
    assert (counts.last_seq, counts.committed_seq, outbox.last_seq) == (0, 0, 0)


def test_a_directory_without_an_outbox_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match="no outbox") as caught:
        holds.holds(tmp_path)

    assert "state_dir" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_version_is_left_to_the_agent(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.execute("PRAGMA user_version=1")

    with pytest.raises(OutboxError, match="schema 1") as caught:
        holds.holds(tmp_path)

    assert "restart" in caught.value.hint


# --- what is held ---------------------------------------------------------------------------------


def test_holds_are_listed_with_their_seqs_and_reasons(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 9)
    set_aside(outbox, 3)
    commit(outbox, 9, rejected=(5, 8))

    output = [
        (hold.kind, hold.first_seq, hold.last_seq, hold.rows, hold.reason) for hold in holds.holds(tmp_path)
    ]

    assert output == [("set_aside", 3, 3, 1, "refused: 400"), ("rejected", 5, 8, 4, "bad")]
    assert {hold.outbox_id for hold in holds.holds(tmp_path)} == {outbox.outbox_id}


def test_the_rows_of_one_hold_or_of_all_come_in_order(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 9)
    set_aside(outbox, 7)
    commit(outbox, 9, rejected=(2, 4))
    ids = {hold.kind: hold.id for hold in holds.holds(tmp_path)}

    one, everything = (
        seqs([json.loads(row) for row in holds.held_rows(tmp_path, hold_id)])
        for hold_id in (ids["set_aside"], None)
    )

    assert (one, everything) == ([7], [2, 3, 4, 7])


def test_only_what_is_named_is_released(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 5)
    set_aside(outbox, 1, 2, 3)
    first, second, third = (hold.id for hold in holds.holds(tmp_path))

    released = [holds.release(tmp_path, some) for some in ([first, 99], [first], None)]

    assert released == [1, 0, 2]
    assert {second, third}.isdisjoint(hold.id for hold in holds.holds(tmp_path))


def test_a_release_from_another_process_does_not_stop_a_swipe(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 3)
    set_aside(outbox, 2)

    output = elsewhere("print(holds.release(d, None))", tmp_path)
    outbox.keep(swipe(4))

    assert output.strip() == "1"
    assert outbox.last_seq == 4


def test_a_row_refused_once_more_is_one_hold_with_the_newest_reason(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 3)
    set_aside(outbox, 2)
    first = holds.holds(tmp_path)[0].id

    set_aside(outbox, 2)

    (hold,) = holds.holds(tmp_path)
    assert hold.id != first


def test_no_card_shows_in_a_hold(tmp_path: Path, outbox: Outbox) -> None:
    outbox.keep(swipe(0x63E9AE))
    set_aside(outbox, 1)

    assert raw_hex(40, 0x63E9AE) not in repr(holds.holds(tmp_path))


# --- replay requests -----------------------------------------------------------------------------


def test_a_request_from_another_process_is_in_the_file(tmp_path: Path, outbox: Outbox) -> None:
    keep(outbox, 5)
    commit(outbox, 5)

    output = elsewhere(
        "r = replay_queue.find(d, replay_queue.Wanted(first_seq=2, last_seq=3));"
        "print(*replay_queue.request(d, r))",
        tmp_path,
    )

    assert output.split() == ["1"]
    assert looked_up(tmp_path, "SELECT first_n, last_n, held_id FROM replays") == [(2, 3, None)]


def test_seqs_are_those_of_the_present_id_and_times_find_older_ones_too(
    tmp_path: Path, outbox: Outbox
) -> None:
    keep(outbox, 4)
    commit(outbox, 4)
    outbox.start_generation("a test wants it")
    keep(outbox, 3)
    commit(outbox, 3)

    by_seq, by_time = (
        [json.loads(row) for row in replay_queue.rows_in(tmp_path, replay_queue.find(tmp_path, wanted))]
        for wanted in (Wanted(first_seq=2), Wanted(first_us=0))
    )

    assert [(row["outbox_id"], row["seq"]) for row in by_seq] == [
        (outbox.outbox_id, 2),
        (outbox.outbox_id, 3),
    ]
    assert seqs(by_time) == [1, 2, 3, 4, 1, 2, 3]


def test_rows_of_a_generation_that_is_lost_are_counted(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 10)
        commit(outbox, 8)
        with outbox._file.changing() as connection:
            connection.execute("DELETE FROM generation")
            generation.add(connection, Generation(6, new_outbox_id(), outbox.state.committed_chain))

        assert read_counts(tmp_path).kept == 8
