"""Door events in the outbox file: numbered, chained, bounded; and never in the way of swipes."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from agent.outbox import EventRows, NoHeartbeats, Outbox, event_store
from agent.outbox.database import PAGE_BYTES
from agent.outbox.event_store import EventState
from tests.support.events import event, follow_each_other, stored_events
from tests.support.outbox_rig import damaged, keep, looked_up, opened, pending_rows
from tests.support.swipes import instant, swipe


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small limits."""
    monkeypatch.setattr(event_store, "_KEPT", 5)
    monkeypatch.setattr(event_store, "_MOST_PENDING", 8)
    monkeypatch.setattr(event_store, "_MOST_PENDING_WITH_OPERATORS", 10)


def numbers(state_dir: Path) -> list[int]:
    return [row["details"]["n"] for row in stored_events(state_dir)]


def commit_events(outbox: Outbox, n: int) -> None:
    with outbox.writing() as connection:
        (chain,) = connection.execute("SELECT chain FROM door_events WHERE n = ?", (n,)).fetchone()
        state = event_store.read_state(connection)
        event_store.write_state(connection, state._replace(committed_n=n, committed_chain=chain))


def test_events_are_a_chain_of_their_own_across_restarts(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        first_id = outbox.outbox_id
        outbox.door_events.keep([event(1), event(2)])
        keep(outbox, 3)
    with closing(opened(tmp_path)) as outbox:
        outbox.start_generation("a test wants it")
        outbox.door_events.keep([event(3)])

        assert outbox.last_seq == 3

    rows = stored_events(tmp_path)
    assert [row["message"] for row in rows] == ["event 1", "event 2", "event 3"]
    assert follow_each_other(rows, first_id)
    assert len({row["event_id"] for row in rows}) == 3


def test_an_event_is_on_disk_after_one_flush(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        outbox.observe_clock(instant())
        before = outbox.file.flushes

        outbox.door_events.keep([event(1), event(2), event(3)])

        assert outbox.file.flushes == before + 1


@pytest.mark.usefixtures("few")
def test_of_committed_events_the_oldest_go_first_and_no_number_is_used_again(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        outbox.door_events.keep([event(n) for n in range(1, 8)])
        commit_events(outbox, 6)
        outbox.door_events.keep([event(8)])

        assert numbers(tmp_path) == [4, 5, 6, 7, 8]

        commit_events(outbox, 8)
        outbox.door_events.keep([event(n) for n in range(9, 16)])

    assert looked_up(tmp_path, "SELECT n FROM door_events ORDER BY n") == [(n,) for n in range(9, 16)]


@pytest.mark.usefixtures("few")
def test_no_pending_event_is_deleted_and_the_next_one_says_how_many_were_refused(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        outbox.door_events.keep([event(n) for n in range(1, 12)])
        outbox.door_events.keep([event(12, kind="outbox_show", actor="anna")])

        assert numbers(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8, 12]
        assert stored_events(tmp_path)[-1]["details"] == {"n": 12, "events_refused_before": 3}

        commit_events(outbox, 9)
        outbox.door_events.keep([event(13)])

    assert stored_events(tmp_path)[-1]["details"] == {"n": 13}
    assert follow_each_other(stored_events(tmp_path)[-2:], stored_events(tmp_path)[-3]["chain"])


def test_a_file_of_the_version_before_takes_events(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.executescript(
            "DROP TABLE door_events; DROP TABLE door_events_state; PRAGMA user_version=4;"
        )

    with closing(opened(tmp_path)) as outbox:
        outbox.door_events.keep([event(1)])

        assert outbox.pending == 5

    assert numbers(tmp_path) == [1]
    assert not list(tmp_path.glob("*.corrupt-*"))


def test_a_start_finds_the_version_before_it_and_how_that_run_ended(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        assert outbox.door_events.note_start("1.0") == ("", "")
        outbox.door_events.keep([event(1, kind="start"), event(2), event(3, actor="anna")])
    with closing(opened(tmp_path)) as outbox:
        assert outbox.door_events.note_start("1.1") == ("1.0", "start")
        outbox.door_events.keep([event(4, kind="start"), event(5, kind="stop")])
    with closing(opened(tmp_path)) as outbox:
        assert outbox.door_events.note_start("1.1") == ("1.1", "stop")


@pytest.mark.parametrize("column", ["committed_n = 1", "channel = 'x'", "refused = 1"])
def test_a_damaged_state_of_the_events_costs_no_swipe_and_no_event(tmp_path: Path, column: str) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        outbox.door_events.keep([event(n) for n in range(1, 4)])
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection, connection:
        connection.execute(f"UPDATE door_events_state SET {column}")  # noqa: S608 - the test's own

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(6))
        outbox.door_events.keep([event(4)])

        assert [int(row["card_raw"], 16) for row in pending_rows(outbox)] == [1, 2, 3, 4, 5, 6]

    assert numbers(tmp_path) == [1, 2, 3, 4]


def test_a_damaged_event_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 2)
        outbox.door_events.keep([event(n) for n in range(1, 4)])
    with damaged(tmp_path) as content:
        at = content.index(b"event 2")
        content[at : at + 5] = b"EVENT"

    with closing(opened(tmp_path)) as outbox:
        source = EventRows(outbox, "EVENTS", NoHeartbeats())
        batch = source.after((0, 0), 100, max_bytes=10**6)

        assert batch is not None
        assert len(batch.rows) == 2
        assert outbox.pending == 2
    assert numbers(tmp_path) == [1, 3]
    assert "1 door events are damaged" in caplog.text


def test_a_page_of_the_events_that_is_lost_costs_no_swipe_and_no_event_of_another_page(
    tmp_path: Path,
) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        outbox.door_events.keep([event(n) for n in range(1, 101)])
    with damaged(tmp_path) as content:
        begin = content.index(b"event 50") // PAGE_BYTES * PAGE_BYTES
        content[begin : begin + PAGE_BYTES] = bytes(PAGE_BYTES)

    with closing(opened(tmp_path)) as outbox:
        outbox.door_events.keep([event(101)])

        assert [int(row["card_raw"], 16) for row in pending_rows(outbox)] == [1, 2, 3, 4, 5]

    left = numbers(tmp_path)
    assert {1, 2, 99, 100, 101} <= set(left)
    assert 50 not in left
    assert len(left) > 80


def test_a_state_is_found_damaged_by_its_checksum() -> None:
    state = EventState(3, "a" * 32, 2, "0" * 12, "", "channel", "pipe", 0, 0, "1.0")

    assert EventState.checked((*state, state.checksum)) == state
    assert EventState.checked((*state._replace(committed_n=4), state.checksum)) is None
    assert EventState.checked((*state._replace(version="1.1"), state.checksum)) is None
    assert EventState.checked(state) is None
