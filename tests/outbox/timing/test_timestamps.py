from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.clock.system_clock import RELEASED_US
from agent.errors import OutboxCorruptError
from agent.outbox import LiveRows, Outbox, ReplayRows
from agent.outbox.external import replay_queue
from agent.outbox.recovery import rebuild
from agent.outbox.state import write_record
from tests.support.clock_rig import TRUE_START_US, ClockRig
from tests.support.outbox_rig import looked_up, opened, rows_after
from tests.support.swipes import instant, swipe
from tests.support.timing_rig import MS, TimingRig, clocks, in_order, microseconds

HOUR_S, DAY_S = 3_600.0, 86_400.0
YEARS_56_S = 56 * 365.25 * DAY_S

MakeScene = Callable[..., TimingRig]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeScene]:
    scenes: list[TimingRig] = []

    def one(*, drift: float = 0.0, wakes_at_us: int = 0) -> TimingRig:
        scenes.append(TimingRig(tmp_path, ClockRig(drift=drift, wakes_at_us=wakes_at_us)))
        return scenes[-1]

    yield one
    for scene in scenes:
        scene.outbox.close()


# --- one boot -------------------------------------------------------------------------------


def test_swipes_from_before_ntp_are_right_to_the_millisecond_once_it_came(make: MakeScene) -> None:
    scene = make()
    scene.look()
    scene.swipe(40)
    waiting = scene.send(may_wait=True)
    scene.machine.ntp_comes()
    scene.swipe(40)

    rows = scene.send(may_wait=True)

    assert waiting == []
    assert len(rows) == 80
    assert scene.worst_us(rows) < MS
    assert in_order(rows)
    assert [row["clock"] for row in rows] == ["corrected"] * 40 + ["synced"] * 40
    assert rows[0]["recorded_at"].startswith("1970-01-01T00:00:0")
    assert not any("time_uncertainty_ms" in row for row in rows)


def test_what_was_stored_and_chained_stays_as_it_was(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    stored = looked_up(scene.state_dir, "SELECT row FROM swipes ORDER BY n")
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    assert looked_up(scene.state_dir, "SELECT row FROM swipes ORDER BY n") == stored
    for sent, (row,) in zip(rows, stored, strict=True):
        before = json.loads(row)
        changed = {name for name in sent if sent[name] != before.get(name)}
        assert changed - {"outbox_id", "seq", "chain_before"} == {"event_timestamp", "clock", "recorded_at"}
        assert sent["recorded_at"] == before["event_timestamp"]


def test_a_swipe_that_saw_the_right_clock_is_look_enough(make: MakeScene) -> None:
    scene = make()
    scene.swipe(5)
    scene.machine.ntp_comes()
    scene.swipe()

    rows = scene.send(may_wait=True)

    assert scene.worst_us(rows) < MS


def test_a_clock_that_is_trusted_for_a_moment_is_enough_for_the_whole_boot(make: MakeScene) -> None:
    scene = make()
    scene.swipe(5)
    scene.machine.ntp_comes()
    scene.look()
    scene.machine.set_by_hand(off_s=-5 * HOUR_S)
    scene.swipe(5)
    scene.restart(is_clean=False)
    scene.swipe(5)

    rows = scene.send(may_wait=True)

    assert len(rows) == 15
    assert scene.worst_us(rows) < MS
    assert clocks(rows) == {"corrected"}


def test_an_agent_that_is_restarted_goes_on_with_what_the_boot_was_known_by(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    scene.restart(is_clean=False)
    scene.swipe(3)
    scene.machine.ntp_comes()
    scene.look()
    scene.restart(is_clean=False)

    rows = scene.send(may_wait=True)

    assert scene.worst_us(rows) < MS
    assert looked_up(scene.state_dir, "SELECT count(*) FROM boots") == [(1,)]


@pytest.mark.parametrize("hours", [-2, 2])
def test_a_clock_that_steps_was_wrong_before(make: MakeScene, hours: int) -> None:
    scene = make()
    scene.machine.wrongly_synchronised(off_s=-hours * HOUR_S)
    scene.swipe(20)
    scene.machine.ntp_comes()
    scene.swipe(20)

    rows = scene.send(may_wait=True)

    assert scene.worst_us(rows) < MS
    assert in_order(rows)
    assert [row["clock"] for row in rows] == ["corrected"] * 20 + ["synced"] * 20


def test_what_went_before_a_step_is_not_touched_by_it(make: MakeScene) -> None:
    scene = make()
    scene.machine.wrongly_synchronised(off_s=2 * HOUR_S)
    scene.swipe(3)
    before = scene.send()
    scene.swipe(3)
    scene.machine.ntp_comes()
    scene.swipe(3)

    after = scene.send()

    assert clocks(before) == {"synced"}
    assert scene.worst_us(after) < MS
    assert [row["event_timestamp"] for row in scene.replayed()] == [
        row["event_timestamp"] for row in [*before, *after]
    ]


def test_a_clock_that_was_set_back_is_believed_by_those_that_come_late(make: MakeScene) -> None:
    scene = make()
    scene.machine.wrongly_synchronised(off_s=HOUR_S)
    scene.look()
    scene.machine.advance(1)
    late = scene.machine.now()
    true_us = scene.machine.true_us
    scene.machine.advance(1)
    scene.machine.ntp_comes()
    scene.swipe()
    scene.truth[2] = true_us
    scene.outbox.keep(swipe(2, read_at=late))

    rows = scene.send()

    assert scene.worst_us(rows) < MS


def test_a_suspend_counts(make: MakeScene) -> None:
    scene = make()
    scene.swipe(5)
    scene.machine.advance(9 * HOUR_S)
    scene.swipe(5)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    assert scene.worst_us(rows) < MS


@pytest.mark.parametrize("drift", [500e-6, -500e-6, 20e-6])
def test_a_week_of_drift_is_taken_out_when_ntp_comes_back(make: MakeScene, drift: float) -> None:
    scene = make(drift=drift)
    scene.machine.ntp_comes()
    scene.swipe(10)
    scene.machine.ntp_goes()
    for _ in range(7 * 24):
        scene.swipe(every_s=HOUR_S)
        scene.look()
    scene.machine.ntp_comes()
    scene.look()
    scene.swipe(10)

    rows = scene.send()

    # Within the first hours the kernel still vouches for the clock: there a second is a step.
    assert scene.worst_us(rows) <= 1_001 * MS
    assert scene.worst_us([row for row in rows if row["clock"] == "corrected"]) < MS
    assert in_order(rows)
    scene.assert_honest(rows)


@pytest.mark.parametrize("drift", [500e-6, 20e-6])
def test_a_week_of_drift_that_nothing_ends_is_within_the_uncertainty(make: MakeScene, drift: float) -> None:
    scene = make(drift=drift)
    scene.machine.ntp_comes()
    scene.look()
    scene.machine.ntp_goes()
    scene.machine.advance(DAY_S)
    for _ in range(6):
        scene.swipe(every_s=DAY_S)
        scene.look()

    rows = scene.send(may_wait=True)

    scene.assert_honest(rows)
    assert rows[-1]["time_uncertainty_ms"] >= 6 * DAY_S * 0.5
    assert clocks(rows) == {"corrected"}


def test_a_week_of_drift_before_the_first_sync_is_within_the_uncertainty(make: MakeScene) -> None:
    scene = make(drift=500e-6)
    for _ in range(7):
        scene.swipe(every_s=DAY_S)
        scene.look()
    scene.machine.advance(10)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    scene.assert_honest(rows)
    assert "time_uncertainty_ms" not in rows[-1]
    assert clocks(rows) == {"corrected"}


def test_an_operator_who_sets_the_clock_is_not_believed_but_better_than_nothing(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    scene.machine.set_by_hand(off_s=3.0)
    scene.swipe(3)

    rows = scene.send()

    assert clocks(rows) == {"estimated"}
    assert scene.worst_us(rows) == pytest.approx(3_000 * MS, abs=MS)
    assert not any("time_uncertainty_ms" in row for row in rows)
    assert in_order(rows)


# --- several boots --------------------------------------------------------------------------


def test_boots_without_a_clock_lie_between_what_is_known_around_them(make: MakeScene) -> None:
    scene = make()
    scene.machine.ntp_comes()
    scene.swipe(5)
    scene.power_cut(off_s=60)
    scene.swipe(5)
    scene.power_cut(off_s=120)
    scene.swipe(5)
    scene.power_cut(off_s=30)
    scene.swipe(5)
    waiting = scene.send(may_wait=True)
    scene.machine.ntp_comes()
    scene.swipe(5)

    rows = [*waiting, *scene.send(may_wait=True)]

    assert [row["seq"] for row in waiting] == [1, 2, 3, 4, 5]
    assert [row["clock"] for row in rows] == (
        ["synced"] * 5 + ["estimated"] * 10 + ["corrected"] * 5 + ["synced"] * 5
    )
    assert in_order(rows)
    scene.assert_honest(rows)
    assert scene.worst_us(rows[:5] + rows[15:]) < MS
    # Nothing but the time in which there was no power is unknown, and how far boots reached before.
    assert all(row["time_uncertainty_ms"] < 400_000 for row in rows[5:15])


def test_a_clock_that_was_saved_at_shutdown_is_a_good_hint(make: MakeScene) -> None:
    scene = make()
    scene.machine.ntp_comes()
    scene.swipe(5)
    scene.machine.wakes_at_us = scene.machine.true_us
    scene.power_cut(off_s=60)
    scene.swipe(5)
    scene.machine.wakes_at_us = scene.machine.true_us
    scene.power_cut(off_s=10 * HOUR_S)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    guessed = rows[5:]
    assert clocks(guessed) == {"estimated"}
    assert scene.worst_us(guessed) == pytest.approx(60_000 * MS, abs=MS)
    assert in_order(rows)
    scene.assert_honest(rows)


def test_a_hint_from_outside_the_bounds_is_none(make: MakeScene) -> None:
    scene = make()
    scene.machine.ntp_comes()
    scene.swipe(5)
    scene.machine.wakes_at_us = TRUE_START_US + int(YEARS_56_S * 1e6)
    scene.power_cut(off_s=60)
    scene.swipe(5)
    scene.power_cut(off_s=60)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    assert in_order(rows)
    scene.assert_honest(rows)
    assert all(row["time_uncertainty_ms"] < 200_000 for row in rows[5:])


def test_the_first_boot_of_all_is_not_before_the_release(make: MakeScene) -> None:
    scene = make()
    scene.swipe(2)

    rows = scene.send()

    assert clocks(rows) == {"estimated"}
    assert all("time_uncertainty_ms" not in row for row in rows)
    assert all(microseconds(row["event_timestamp"]) >= RELEASED_US for row in rows)


def test_what_went_as_an_estimate_stays_so_when_more_is_known(make: MakeScene) -> None:
    scene = make()
    scene.swipe(4)
    guessed = scene.send(limit=2)
    scene.machine.ntp_comes()
    scene.look()
    scene.restart(is_clean=False)

    right = scene.send()

    assert (clocks(guessed), clocks(right)) == ({"estimated"}, {"corrected"})
    assert scene.worst_us(right) < MS
    assert [(row["event_timestamp"], row["clock"]) for row in scene.replayed()] == [
        (row["event_timestamp"], row["clock"]) for row in [*guessed, *right]
    ]


def test_rows_that_were_not_committed_may_go_with_a_better_time(make: MakeScene) -> None:
    scene = make()
    scene.swipe(4)
    rows_after(scene.outbox)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    assert scene.worst_us(rows) < MS
    assert looked_up(scene.state_dir, "SELECT first_n FROM timings") == [(1,)]


def test_a_clock_that_shows_less_than_was_seen_is_not_trusted(make: MakeScene) -> None:
    scene = make()
    scene.machine.ntp_comes()
    scene.swipe(3)
    scene.power_cut()
    scene.machine.wrongly_synchronised(off_s=-10 * DAY_S)
    scene.swipe(3)

    rows = scene.send()

    assert [row["clock"] for row in rows] == ["synced"] * 3 + ["estimated"] * 3
    assert in_order(rows)


def test_an_earlier_clock_that_was_far_ahead_is_refuted_by_the_server(
    make: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make()
    scene.machine.wrongly_synchronised(off_s=1_000 * DAY_S)
    scene.swipe(3)
    scene.power_cut()
    scene.machine.ntp_comes()
    scene.swipe(3)
    scene.observe_server()
    scene.swipe(3)

    rows = scene.send()[3:]

    assert scene.worst_us(rows) < MS
    assert [row["clock"] for row in rows] == ["corrected"] * 3 + ["synced"] * 3
    assert "it was ahead in an earlier boot" in caplog.text


def test_a_server_that_was_heard_before_the_clock_was_set_refutes_as_well(make: MakeScene) -> None:
    scene = make()
    scene.machine.wrongly_synchronised(off_s=1_000 * DAY_S)
    scene.swipe(3)
    scene.power_cut()
    scene.observe_server()
    scene.swipe(3)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send(may_wait=True)[3:]

    assert scene.worst_us(rows) < MS
    assert clocks(rows) == {"corrected"}


def test_long_boots_without_a_clock_and_short_cuts_keep_their_order(make: MakeScene) -> None:
    scene = make()
    scene.machine.ntp_comes()
    scene.swipe(2)
    for _ in range(3):
        scene.power_cut(off_s=1)
        scene.swipe(4, every_s=HOUR_S)
    scene.power_cut(off_s=1)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    assert in_order(rows)
    scene.assert_honest(rows)


def test_how_a_clock_ran_off_before_a_power_cut_bounds_the_boot_after(make: MakeScene) -> None:
    scene = make(drift=400e-6)
    scene.machine.ntp_comes()
    scene.swipe(2)
    scene.machine.ntp_goes()
    scene.swipe(4, every_s=12 * HOUR_S)
    scene.power_cut(off_s=1)
    scene.swipe(2)
    scene.power_cut(off_s=1)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    scene.assert_honest(rows)


def test_a_machine_that_ran_before_the_file_came_to_it_does_not_bound_it(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    first = opened(tmp_path / "state", machine_id="a")
    first.observe_clock(instant(TRUE_START_US, trusted=True))
    first.keep(swipe(1, read_at=instant(TRUE_START_US)))
    first.close()
    other = ClockRig()
    other.ntp_comes()
    other.true_us, other._boot_us = TRUE_START_US + 60_000_000, 30 * DAY_S * 1e6
    other.ntp_comes()

    moved = opened(tmp_path / "state", machine_id="b")
    moved.keep(swipe(2, read_at=other.now()))

    assert [row["clock"] for row in rows_after(moved)] == ["synced", "synced"]
    moved.close()


# --- the server's clock ---------------------------------------------------------------------


def test_where_ntp_is_blocked_the_servers_clock_gives_the_time_to_a_second_or_two(make: MakeScene) -> None:
    scene = make(drift=100e-6)
    scene.swipe(3)
    scene.observe_server(off_s=0.9)
    for _ in range(30):
        scene.swipe(2, every_s=HOUR_S)
        scene.observe_server(off_s=-0.9)

    rows = scene.send()

    assert clocks(rows) == {"estimated"}
    assert all(row["time_uncertainty_ms"] <= 5_000 for row in rows)
    scene.assert_honest(rows)
    assert in_order(rows)


def test_the_servers_clock_says_nothing_against_a_synchronised_one(make: MakeScene) -> None:
    scene = make()
    scene.machine.ntp_comes()
    scene.look()
    scene.observe_server(off_s=3 * HOUR_S)
    scene.swipe(3)

    rows = scene.send()

    assert clocks(rows) == {"synced"}
    assert scene.worst_us(rows) < MS


def test_an_answer_a_second_costs_no_write_a_second(make: MakeScene) -> None:
    scene = make()
    scene.swipe()
    scene.observe_server()
    changes = scene.outbox.file._writer.total_changes
    for number in range(200):
        scene.machine.advance(1)
        scene.observe_server(off_s=number % 3 * 0.5)

    assert scene.outbox.file._writer.total_changes == changes


# --- on disk --------------------------------------------------------------------------------


def test_a_swipe_under_a_steady_clock_writes_nothing_but_itself(make: MakeScene) -> None:
    scene = make()
    scene.machine.ntp_comes()
    scene.swipe(2)
    changes = scene.outbox.file._writer.total_changes

    scene.swipe(50)

    assert scene.outbox.file._writer.total_changes == changes + 50


def test_a_swipe_that_goes_with_a_known_timing_writes_nothing_more(make: MakeScene) -> None:
    scene = make()
    scene.swipe()
    scene.send()
    for _ in range(20):
        scene.swipe()
        scene.send()

    assert looked_up(scene.state_dir, "SELECT count(*) FROM timings") == [(1,)]


def test_a_replay_carries_the_times_that_the_rows_had(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    scene.send()
    scene.power_cut()
    scene.swipe(3)
    scene.machine.ntp_comes()
    scene.swipe(3)
    sent = [*scene.sent, *scene.send()]
    scene.restart(is_clean=False)
    replay_queue.request(
        scene.state_dir, replay_queue.find(scene.state_dir, replay_queue.Wanted(first_seq=1))
    )

    batch = ReplayRows(scene.outbox).after((0, 0), 100, max_bytes=10**9)

    assert batch is not None
    assert [json.loads(row) for row in batch.rows] == [row | {"replay": True} for row in sent]


def test_times_survive_a_new_identity(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    scene.send(limit=1)
    scene.outbox.start_generation("a test wants it")
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    assert scene.worst_us(rows) < MS
    assert clocks(rows) == {"corrected"}


def test_times_survive_a_damaged_file(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    guessed = scene.send(limit=1)
    scene.machine.ntp_comes()
    scene.look()
    scene.power_cut()
    scene.swipe()
    scene.outbox.close()
    rebuild.replace(scene.state_dir, OutboxCorruptError("a page is gone"))
    scene.outbox = opened(scene.state_dir)

    rows = scene.send()

    assert scene.worst_us(rows[:2]) < MS
    assert clocks(rows[:2]) == {"corrected"}
    (again,) = map(json.loads, replay_queue.rows_in(scene.state_dir, [replay_queue.Range(1, 1, None, 1)]))
    assert again["event_timestamp"] == guessed[0]["event_timestamp"]


def as_version_2_stored_them(outbox: Outbox) -> None:
    """Rows with their position and the whole boot id, without the columns that came later."""
    with outbox._file.changing() as connection:
        (boot_id,) = connection.execute("SELECT boot_id FROM boots").fetchone()
        found = connection.execute("SELECT n, row FROM swipes").fetchall()
        for n, row in found:
            members = json.loads(row)
            position = {"outbox_id": outbox.outbox_id, "seq": n, "chain": "0" * 16, "replay": False}
            members |= {"boot_id": boot_id, "recorded_at": members["event_timestamp"]}
            del members["chain"]
            older = json.dumps(members | position, separators=(",", ":")).encode()
            connection.execute(
                "UPDATE swipes SET row = ?, boot = NULL, boot_us = NULL, checksum = NULL WHERE n = ?",
                (older, n),
            )
        write_record(connection, outbox.state.record._replace(legacy_n=len(found)))


def test_rows_of_an_older_file_are_corrected_if_their_boot_is_still_running(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    as_version_2_stored_them(scene.outbox)
    scene.machine.ntp_comes()
    scene.look()

    rows = scene.send()

    assert scene.worst_us(rows) <= MS
    assert [len(row["boot_id"]) for row in rows] == [36, 36, 36]
    assert [row["event_timestamp"] for row in scene.replayed()] == [row["event_timestamp"] for row in rows]


def test_boots_and_timings_that_nothing_needs_are_forgotten(make: MakeScene) -> None:
    scene = make()
    for _ in range(5):
        scene.swipe(2)
        scene.send()
        scene.power_cut()
    scene.restart()

    assert len(looked_up(scene.state_dir, "SELECT * FROM boots")) == 1
    assert len(scene.replayed()) == 10
    scene.outbox.purge(kept_since_us=None, max_bytes=0)
    scene.restart()

    assert len(looked_up(scene.state_dir, "SELECT * FROM timings")) <= 1


def test_the_log_says_what_became_of_the_clock_and_says_it_once(
    make: MakeScene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="agent.clock.boot_history")
    scene = make()
    scene.swipe(3)
    scene.machine.ntp_comes()
    scene.swipe(3)
    scene.machine.set_by_hand(off_s=0)
    scene.swipe(3)
    scene.machine.ntp_comes()
    scene.swipe(3)
    scene.machine.wrongly_synchronised(off_s=-7_200)
    scene.swipe(3)

    assert [record.getMessage() for record in caplog.records] == [
        "clock: synchronised; it was 56 years 59 days behind",
        "clock: no longer synchronised; swipes are kept and their times corrected later",
        "clock: synchronised",
        "clock: was set while it counted as synchronised; it was 2 h ahead",
    ]


def test_a_full_disk_keeps_no_row_from_its_right_time(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    with scene.outbox.file.writing() as connection:
        connection.execute("DELETE FROM boots")
    scene.machine.ntp_comes()
    scene.look()

    live = LiveRows(scene.outbox, lambda: 60.0)

    assert live.after(live.committed, 10, max_bytes=10**9) is not None
    assert live.max_wait_s is None


def test_a_replay_by_time_finds_rows_by_the_time_they_went_with(make: MakeScene) -> None:
    scene = make()
    scene.swipe(5)
    scene.machine.ntp_comes()
    scene.look()
    rows = scene.send()

    wanted = replay_queue.Wanted(first_us=scene.truth[2], last_us=scene.truth[4])
    (found,) = replay_queue.find(scene.state_dir, wanted)

    assert (found.first_n, found.last_n, found.rows) == (2, 4, 3)
    assert clocks(rows) == {"corrected"}


def test_a_file_that_lost_its_boots_does_not_take_one_for_another(make: MakeScene) -> None:
    scene = make()
    scene.swipe(3)
    with scene.outbox.file.writing() as connection:
        connection.execute("DELETE FROM boots")
    scene.power_cut()
    scene.machine.ntp_comes()
    scene.swipe(2)

    rows = scene.send()

    assert [row["clock"] for row in rows] == ["estimated"] * 3 + ["synced"] * 2
    assert not any("recorded_at" in row for row in rows)
    assert scene.worst_us(rows[3:]) < MS


@pytest.mark.parametrize("points", ["[[1,2,", "[[1]]", '[["1",2,0]]', "7"])
def test_damage_in_what_is_known_of_the_clock_is_damage_of_the_file(
    make: MakeScene, points: str, caplog: pytest.LogCaptureFixture
) -> None:
    scene = make()
    scene.swipe(3)
    with scene.outbox.file.writing() as connection:
        connection.execute("UPDATE boots SET points = ?", (points,))

    scene.restart(is_clean=False)

    assert "the file was damaged" in caplog.text
    assert len(scene.send()) == 3
