from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.keys.keypair import KeyPair
from agent.outbox import read_counts
from agent.outbox.external import holds, replay_queue
from agent.outbox.external.replay_queue import NothingToReplayError, Wanted
from tests.support.outbox_rig import looked_up
from tests.support.pipe_model import Lose, Refuse
from tests.support.swipes import NOON_US, instant, swipe
from tests.support.uploader_rig import UploaderRig


def landed_again(door: UploaderRig) -> list[int]:
    return door.pipe.replayed


def seqs_of(rows: list[bytes]) -> list[int]:
    return [json.loads(row)["seq"] for row in rows]


# --- which rows -------------------------------------------------------------------------------


def test_a_range_is_sent_again_once_and_each_row_is_the_same_but_for_its_mark(door: UploaderRig) -> None:
    door.keep(10)
    door.drain()

    asked = door.replay(first_seq=3, last_seq=6)
    door.drain()

    again = [row for _, row in door.pipe.landed if row.get("replay", False)]
    assert seqs_of(asked) == [3, 4, 5, 6]
    assert again == [json.loads(row) | {"replay": True} for row in asked]
    assert {channel for channel, row in door.pipe.landed if row.get("replay", False)} == {
        f"door-{door.outbox.outbox_id}-replay"
    }


@pytest.mark.parametrize(
    ("first", "last", "seqs"),
    [(None, 3, [1, 2, 3]), (8, None, [8, 9]), (0, 99, list(range(1, 10))), (4, 4, [4])],
)
def test_a_range_may_be_open_and_ends_with_what_is_committed(
    door: UploaderRig, first: int | None, last: int | None, seqs: list[int]
) -> None:
    door.keep(9)
    door.drain()
    door.keep(1)

    found = replay_queue.find(door.state_dir, Wanted(first_seq=first, last_seq=last))

    assert seqs_of(list(replay_queue.rows_in(door.state_dir, found))) == seqs
    assert sum(some.rows for some in found) == len(seqs)


def test_a_time_finds_what_was_read_then_and_untrusted_reads_in_between(door: UploaderRig) -> None:
    reads = [(1, 1, True), (10, 10, True), (15, 10**6, False), (20, 20, True), (30, 30, True)]
    for boot_s, wall_s, trusted in reads:
        read_at = instant(NOON_US + wall_s * 10**6, boot_ms=boot_s * 1_000, trusted=trusted)
        door.outbox.keep(swipe(read_at=read_at))
    door.drain()

    asked = door.replay(first_us=NOON_US + 10 * 10**6, last_us=NOON_US + 20 * 10**6)

    assert seqs_of(asked) == [2, 3, 4]


@pytest.mark.parametrize("wanted", [Wanted(first_seq=6), Wanted(kind="rejected"), Wanted(first_us=2**60)])
def test_what_does_not_exist_cannot_be_replayed(door: UploaderRig, wanted: Wanted) -> None:
    door.keep(5)
    door.drain()

    with pytest.raises(NothingToReplayError):
        replay_queue.find(door.state_dir, wanted)


def test_a_look_at_what_would_be_sent_changes_nothing(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()

    found = replay_queue.find(door.state_dir, Wanted(first_seq=1))
    list(replay_queue.rows_in(door.state_dir, found))
    door.drain()

    assert landed_again(door) == []


def test_rows_set_aside_inside_a_range_are_neither_shown_nor_sent(door: UploaderRig) -> None:
    door.pipe.refuses = lambda row: row["seq"] in {3, 5}
    door.keep(6)
    door.drain()

    asked = door.replay(first_seq=1)
    door.drain()

    assert seqs_of(asked) == [1, 2, 4, 6]
    assert landed_again(door) == [1, 2, 4, 6]
    assert read_counts(door.state_dir).set_aside == 2


# --- rows that were held --------------------------------------------------------------------------


def test_rejected_rows_are_sent_again_after_the_fix_and_need_nobody_then(door: UploaderRig) -> None:
    door.pipe.cannot_load = lambda row: row["seq"] == 2
    door.keep(4)
    door.drain()
    door.pipe.cannot_load = lambda _: False

    door.replay(kind="rejected")
    door.drain()

    assert landed_again(door) == [1, 2, 3, 4]
    assert holds.holds(door.state_dir) == []


def test_rejected_rows_that_fail_again_are_held_again(door: UploaderRig) -> None:
    door.pipe.cannot_load = lambda row: row["seq"] == 2
    door.keep(4)
    door.drain()

    door.replay(kind="rejected")
    door.drain()

    (hold,) = holds.holds(door.state_dir)
    assert (hold.kind, hold.first_seq, hold.last_seq) == ("rejected", 1, 4)


def test_rows_set_aside_are_sent_again_after_the_fix_and_need_nobody_then(door: UploaderRig) -> None:
    door.pipe.refuses = lambda row: row["seq"] in {2, 5}
    door.keep(6)
    door.drain()
    door.pipe.refuses = lambda _: False

    door.replay(kind="set_aside")
    door.drain()

    assert landed_again(door) == [2, 5]
    assert holds.holds(door.state_dir) == []
    assert door.pipe.table == [1, 3, 4, 6]


def test_rows_set_aside_that_are_refused_again_stay_and_do_not_hold_up_the_others(door: UploaderRig) -> None:
    door.pipe.refuses = lambda row: row["seq"] in {2, 5}
    door.keep(6)
    door.drain()
    door.pipe.refuses = lambda row: row["seq"] == 2

    door.replay(kind="set_aside")
    door.drain()

    assert landed_again(door) == [5]
    assert [hold.first_seq for hold in holds.holds(door.state_dir)] == [2]


@pytest.mark.parametrize("bad", [{4}, {3, 4, 5}], ids=str)
def test_a_row_refused_only_in_its_replay_is_set_aside_then(door: UploaderRig, bad: set[int]) -> None:
    door.keep(6)
    door.drain()
    door.pipe.refuses = lambda row: row["seq"] in bad

    door.replay(first_seq=1)
    door.drain()

    assert landed_again(door) == [seq for seq in range(1, 7) if seq not in bad]
    assert [(hold.kind, hold.first_seq) for hold in holds.holds(door.state_dir)] == [
        ("set_aside", seq) for seq in sorted(bad)
    ]


def test_refused_rows_at_the_end_of_one_replay_and_the_begin_of_the_next_are_set_aside(
    door: UploaderRig,
) -> None:
    door.keep(8)
    door.drain()
    door.pipe.refuses = lambda row: row["seq"] in {3, 4, 6}

    door.replay(first_seq=1, last_seq=4)
    door.replay(first_seq=6)
    door.drain()

    assert landed_again(door) == [1, 2, 7, 8]
    assert sorted(hold.first_seq for hold in holds.holds(door.state_dir)) == [3, 4, 6]


def test_a_crash_while_a_row_of_a_replay_is_suspected_neither_loses_nor_doubles(door: UploaderRig) -> None:
    door.keep(6)
    door.drain()
    door.pipe.refuses = lambda row: row["seq"] == 4
    door.replay(first_seq=1)
    crashes = 0
    for _ in range(2000):
        door.run(5)
        if door.outbox.state.record.suspect_replay_id:
            door.crash()
            crashes += 1

    door.drain()

    assert crashes > 0
    assert landed_again(door) == [1, 2, 3, 5, 6]
    assert [hold.first_seq for hold in holds.holds(door.state_dir)] == [4]


def test_rows_refused_in_a_replay_are_set_aside_in_one_transaction(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    door.outbox.mark_replay_suspect((1, 2))
    flushes = door.outbox.file.flushes

    door.outbox.set_aside_replay_rows([2, 3, 4])

    assert door.outbox.file.flushes == flushes + 1
    assert [hold.first_seq for hold in holds.holds(door.state_dir) if hold.kind == "set_aside"] == [2, 3, 4]
    assert door.outbox.state.record.suspect_replay_n == 0


def test_a_replay_that_is_refused_row_after_row_waits_for_better_times(door: UploaderRig) -> None:
    door.keep(60)
    door.drain()
    door.pipe.refuses = lambda row: bool(row.get("replay", False))

    door.replay(first_seq=1)
    door.run(3600)
    door.pipe.refuses = lambda _: False
    door.drain()

    assert landed_again(door) == list(range(1, 61))
    assert holds.holds(door.state_dir) == []


def test_the_same_hold_is_not_replayed_twice_by_two_who_ask_at_once(door: UploaderRig) -> None:
    door.pipe.cannot_load = lambda row: row["seq"] == 2
    door.keep(3)
    door.drain()
    door.pipe.cannot_load = lambda _: False

    found = replay_queue.find(door.state_dir, Wanted(kind="rejected"))
    asked = [replay_queue.request(door.state_dir, found) for _ in range(2)]
    door.drain()

    assert [len(ids) for ids in asked] == [1, 0]
    assert landed_again(door) == [1, 2, 3]


# --- exactly once -----------------------------------------------------------------------------


def test_two_replays_are_two(door: UploaderRig) -> None:
    door.keep(4)
    door.drain()

    door.replay(first_seq=1, last_seq=3)
    door.replay(first_seq=2)
    door.drain()

    assert landed_again(door) == [1, 2, 3, 2, 3, 4]


@pytest.mark.parametrize("fault", [Lose(processed=True), Lose(processed=False), Refuse(503), Refuse(409)])
def test_a_fault_in_the_middle_neither_loses_nor_doubles(door: UploaderRig, fault: Lose | Refuse) -> None:
    door.keep(10)
    door.drain()
    door.replay(first_seq=1)
    door.run(0.02)
    door.pipe.faults += [fault] * 3

    door.drain()

    assert landed_again(door) == list(range(1, 11))


def test_a_crash_at_any_moment_neither_loses_nor_doubles(tmp_path: Path, key: KeyPair) -> None:
    (state_dir := tmp_path / "state").mkdir()
    door = UploaderRig(state_dir, key, lag_s=0.03)
    door.keep(5)
    door.drain()

    for _ in range(12):
        door.replay(first_seq=1, last_seq=5)
        door.run(0.04)
        door.crash()
    door.drain()

    assert landed_again(door) == [1, 2, 3, 4, 5] * 12
    door.close()


def test_how_much_is_left_can_be_watched(door: UploaderRig) -> None:
    door.keep(6)
    door.drain()
    ids = replay_queue.request(
        door.state_dir, replay_queue.find(door.state_dir, Wanted(first_seq=2, last_seq=4))
    )
    before = replay_queue.rows_to_replay(door.state_dir, ids)

    door.drain()

    assert (before, replay_queue.rows_to_replay(door.state_dir, ids)) == (3, 0)


def test_rows_that_wait_for_their_replay_are_not_purged(door: UploaderRig) -> None:
    door.keep(6)
    door.drain()
    door.replay(first_seq=2, last_seq=3)

    gone = door.outbox.purge(kept_since_us=2**60, max_bytes=0)
    door.drain()

    assert gone == 4
    assert landed_again(door) == [2, 3]


def test_a_deleted_replay_channel_does_not_send_old_replays_again(door: UploaderRig) -> None:
    door.keep(4)
    door.drain()
    door.replay(first_seq=1, last_seq=2)
    door.drain()
    door.pipe.forget_channel()

    door.replay(first_seq=3)
    door.drain()

    assert landed_again(door) == [1, 2, 3, 4]


def test_a_replay_goes_on_under_a_new_identity(door: UploaderRig) -> None:
    door.keep(4)
    door.drain()
    door.replay(first_seq=1, last_seq=2)
    door.drain()
    door.replay(first_seq=3)

    door.outbox.start_generation("a test wants it")
    door.drain()

    assert landed_again(door) == [1, 2, 3, 4]


# --- live swipes first ------------------------------------------------------------------------


def test_live_swipes_go_first(door: UploaderRig) -> None:
    door.keep(30)
    door.drain()
    door.replay(first_seq=1)
    door.keep(5)
    before = len(door.pipe.of("append"))

    door.uploader.step()

    assert [seen.channel for seen in door.pipe.of("append")[before:]] == [f"door-{door.outbox.outbox_id}"]
    door.drain()
    assert landed_again(door) == list(range(1, 31))


def test_a_replay_that_fails_does_not_hold_up_live_swipes(door: UploaderRig) -> None:
    door.keep(3)
    door.drain()
    door.pipe.refuses = lambda row: bool(row.get("replay", False))
    door.replay(first_seq=1)
    door.run(30)

    door.keep(3)
    door.run(1)

    assert door.pipe.table == [1, 2, 3, 4, 5, 6]


def test_an_idle_door_without_a_replay_opens_no_replay_channel(door: UploaderRig) -> None:
    door.keep(3)

    door.drain()

    assert [seen.channel for seen in door.pipe.of("open")] == [f"door-{door.outbox.outbox_id}"]


def test_a_replay_leaves_nothing_in_the_queue(door: UploaderRig) -> None:
    door.keep(3)
    door.drain()
    door.replay(first_seq=1)

    door.drain()

    assert looked_up(door.state_dir, "SELECT * FROM replays") == []
