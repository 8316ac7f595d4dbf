from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import OutboxCorruptError
from agent.keys.keypair import KeyPair
from agent.outbox import read_counts
from agent.outbox.external import holds
from agent.snowpipe.wire import Reply
from tests.support.outbox_rig import looked_up
from tests.support.pipe_model import Lose, Refuse
from tests.support.uploader_rig import UploaderRig


def cards(*numbers: int) -> Callable[[dict[str, Any]], bool]:
    """True for the rows of these cards."""
    chosen = set(numbers)
    return lambda row: int(row["card_raw"], 16) in chosen


def landed(door: UploaderRig) -> list[int]:
    return [int(row["card_raw"], 16) for _, row in door.pipe.landed if not row.get("replay", False)]


def without(count: int, gone: Iterable[int]) -> list[int]:
    return [value for value in range(1, count + 1) if value not in set(gone)]


def held(door: UploaderRig, kind: str) -> list[tuple[int, int]]:
    """The ranges that wait for an operator, by seq."""
    return [(hold.first_seq, hold.last_seq) for hold in holds.holds(door.state_dir) if hold.kind == kind]


# --- rows that the server skips ---------------------------------------------------------------


def test_an_error_that_the_server_counts_holds_the_rows_it_may_be_among(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    door.keep(4)
    door.drain()
    door.pipe.cannot_load = cards(6)
    door.keep(4)
    door.drain()
    door.pipe.cannot_load = cards()
    door.keep(4)

    door.drain()

    assert landed(door) == without(12, [6])
    assert held(door, "rejected") == [(5, 8)]
    assert read_counts(door.state_dir).rejected == 4
    assert "1 not loaded: not a number" in holds.holds(door.state_dir)[0].reason
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "badge-agent outbox list" in errors[0]


def test_errors_counted_before_a_restart_are_not_counted_again(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(2)
    door.keep(4)
    door.drain()

    door.crash()
    door.keep(4)
    door.drain()

    assert held(door, "rejected") == [(1, 4)]


def test_errors_counted_before_the_file_was_damaged_are_not_counted_again(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(2)
    door.keep(4)
    door.drain()
    before = held(door, "rejected")
    door.keep(2)
    image = door.image()
    door.drain()
    door.restore(image)  # it does not know that the last two were committed

    fault = OutboxCorruptError("outbox.db: database disk image is malformed")
    door.outbox._file.rebuild(fault, door.outbox.outbox_id)
    door.keep(4)
    door.drain()

    assert before == [(1, 4)]
    assert held(door, "rejected") == before
    assert landed(door) == without(10, [2])


def test_errors_counted_while_the_agent_was_down_are_seen_at_its_start(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(2)
    door.keep(4)
    door.run(0.03)  # sent, not committed
    door.crash()
    door.clock.advance(60)

    door.drain()

    assert held(door, "rejected") == [(1, 4)]


def test_errors_counted_only_after_their_rows_were_committed_are_seen_too(door: UploaderRig) -> None:
    door.keep(4)
    door.drain()
    door.pipe.counts_errors_late = True
    door.pipe.cannot_load = cards(6)
    door.keep(4)
    door.drain()
    door.keep(4)

    door.drain()

    assert held(door, "rejected") == [(5, 8)]


def test_an_error_counted_minutes_late_holds_its_row_and_not_the_last_ones(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(6)
    door.pipe.errors_count_after_s = 200
    for _ in range(14):
        door.keep(1)
        door.run(1)

    door.drain()

    assert landed(door) == without(14, [6])
    assert held(door, "rejected") == [(6, 6)]


def test_an_error_that_cannot_be_stored_is_asked_for_again(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(2)
    door.pipe.errors_count_after_s = 200
    door.keep(2)
    door.run(250)

    with closing(sqlite3.connect(door.state_dir / "outbox.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        door.run(60)  # the error is counted now
        assert held(door, "rejected") == []
    door.drain()

    assert held(door, "rejected") == [(1, 2)]


def test_an_idle_door_hears_an_error_that_is_counted_late(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(2)
    door.pipe.errors_count_after_s = 200
    door.keep(1)
    door.run(1)
    door.keep(1)

    door.drain()

    assert held(door, "rejected") == [(2, 2)]


def test_an_error_counted_late_is_found_after_a_restart(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(2)
    door.pipe.errors_count_after_s = 100
    for _ in range(4):
        door.keep(1)
        door.run(1)
    door.crash()

    door.drain()

    assert held(door, "rejected") == [(2, 2)]


def test_a_late_error_is_in_the_table_after_repair_replay_and_retention(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(6)
    door.pipe.errors_count_after_s = 200
    for _ in range(14):
        door.keep(1)
        door.run(1)
    door.drain()
    door.outbox.purge(kept_since_us=None, max_bytes=0)
    door.pipe.cannot_load = cards()

    door.replay(kind="rejected")
    door.drain()

    assert [int(row["card_raw"], 16) for _, row in door.pipe.landed if row.get("replay", False)] == [6]


def test_rows_among_which_errors_may_still_be_counted_are_not_purged(door: UploaderRig) -> None:
    def purge() -> int:
        return door.outbox.purge(kept_since_us=None, max_bytes=0, final_n=door.uploader.final_n)

    door.keep(3)
    door.drain()
    before = purge()
    door.pipe.cannot_load = lambda row: cards(5)(row) or bool(row.get("replay", False))
    door.pipe.errors_count_after_s = 200
    door.keep(3)
    door.run(30)
    while_open = purge()
    door.crash()
    door.run(30)
    after_restart = purge()
    door.drain()
    door.replay(kind="rejected")
    door.run(30)
    during_replay = purge()
    door.drain()

    assert (before, while_open, after_restart, during_replay) == (3, 0, 0, 0)
    assert held(door, "rejected")[-1:] == [(4, 6)]
    assert purge() == 0
    assert read_counts(door.state_dir).kept == 3


def test_an_outage_while_an_error_may_be_counted_late_stops_neither_the_count_nor_the_purge(
    door: UploaderRig,
) -> None:
    door.keep(3)
    door.drain()
    door.pipe.cannot_load = lambda row: bool(row.get("replay", False))
    door.pipe.errors_count_after_s = 200
    door.replay(first_seq=2, last_seq=2)
    door.run(30)
    door.pipe.fails = lambda _: Reply(503, {}, b"")
    door.run(1_800)
    is_failing = door.uploader.status().consecutive_failures > 0
    door.pipe.fails = lambda _: None

    door.drain()

    assert is_failing
    assert held(door, "rejected") == [(2, 2)]
    assert door.outbox.purge(kept_since_us=None, max_bytes=0, final_n=door.uploader.final_n) == 2


def test_the_count_of_a_channel_made_anew_begins_at_nothing(door: UploaderRig) -> None:
    door.pipe.cannot_load = cards(2)
    door.keep(4)
    door.drain()
    door.pipe.forget_channel()
    door.pipe.cannot_load = cards(6)
    door.keep(4)

    door.drain()

    assert held(door, "rejected") == [(1, 4), (5, 8)]


# --- rows that the server refuses ---------------------------------------------------------------


@pytest.mark.parametrize("bad", [[1], [17], [39], [7, 23, 31]], ids=str)
def test_rows_that_are_refused_for_an_hour_are_set_aside_and_no_other_is_kept_up(
    door: UploaderRig, bad: list[int]
) -> None:
    door.pipe.refuses = cards(*bad)
    door.keep(40)
    door.run(3500)
    early = held(door, "set_aside")
    door.drain()
    door.keep(5)

    door.drain()

    assert early == []
    assert landed(door) == without(45, bad)
    assert held(door, "set_aside") == [(seq, seq) for seq in bad]
    assert read_counts(door.state_dir).set_aside == len(bad)


@pytest.mark.parametrize(("run", "hours"), [(2, 1.2), (3, 1.2), (10, 3.2), (40, 7.5)])
def test_refused_rows_next_to_each_other_are_set_aside_in_bounded_time(
    door: UploaderRig, run: int, hours: float
) -> None:
    bad = list(range(20, 20 + run))
    door.pipe.refuses = cards(*bad)
    door.keep(80)

    door.run(hours * 3600)

    assert landed(door) == without(80, bad)
    assert held(door, "set_aside") == [(seq, seq) for seq in bad]
    assert door.outbox.pending == 0


def test_many_refused_rows_cost_some_seconds_each_once_one_is_proved(door: UploaderRig) -> None:
    """The first one an hour and its trial, the second and the third minutes, each of the others seconds."""
    bad = list(range(3, 200, 4))
    door.pipe.refuses = cards(*bad)
    door.keep(200)

    at_s = []
    for count in (1, 3, len(bad)):
        while len(held(door, "set_aside")) < count:
            door.run(10)
        at_s.append(door.clock.seconds)
    door.run(60)

    first_s, third_s, last_s = at_s
    assert landed(door) == without(200, bad)
    assert held(door, "set_aside") == [(seq, seq) for seq in bad]
    assert third_s - first_s < 600
    assert (last_s - third_s) / (len(bad) - 3) < 10


def test_a_proof_does_not_last(door: UploaderRig) -> None:
    door.pipe.refuses = cards(2, 4, 6, 8)
    door.keep(9)
    door.drain()
    door.clock.advance(2 * 3600)
    door.pipe.refuses = cards(10)
    door.keep(2)

    door.run(3500)

    assert held(door, "set_aside") == [(2, 2), (4, 4), (6, 6), (8, 8)]


def test_rows_set_aside_are_on_disk_before_the_rows_after_them_are_sent(door: UploaderRig) -> None:
    """Otherwise, after a power cut, the token of a later row would set the rows before it aside."""
    door.pipe.refuses = cards(4, 5)
    door.keep(30)
    door.run(3500)
    while not door.outbox.state.record.suspect_n:
        door.run(1)
    flushes = door.outbox.file.flushes

    while door.outbox.state.record.suspect_n:
        sent = door.pipe.of("append")[-1]
        door.uploader.step()
        door.clock.advance(0.1)

    assert door.pipe.of("append")[-1] == sent
    assert door.outbox.file.flushes == flushes + 1


@settings(max_examples=10, deadline=None)
@given(
    bad=st.sets(st.integers(1, 60), max_size=4).map(
        lambda found: {number + more for number in found for more in range(number % 4)}
    ),
    batches=st.lists(st.integers(1, 20), min_size=1, max_size=6),
)
def test_whichever_rows_are_refused_all_others_land_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, key: KeyPair, bad: set[int], batches: list[int]
) -> None:
    door = UploaderRig(tmp_path_factory.mktemp("door"), key)
    door.pipe.refuses = cards(*bad)

    for count in batches:
        door.keep(count)
        door.run(0.05)
    door.keep(4)
    door.pipe.refuses = cards(*(seq for seq in bad if seq < door.kept))  # a row follows the last one
    door.drain()

    assert landed(door) == without(door.kept, [seq for seq in bad if seq < door.kept])
    assert held(door, "set_aside") == [(seq, seq) for seq in sorted(bad) if seq < door.kept]
    door.close()


# Whatever has been seen to come with a 400 or 413, and what a lone swipe met.
_ANSWERS = [
    Reply(400, {}, b"<html>Bad Request</html>"),
    Reply(400, {}, b""),
    Reply(400, {}, b'{"status_code": 4, "message": "reopen"}'),
    *(
        Reply(status, {}, json.dumps({"code": code}).encode())
        for status in (400, 409, 422)
        for code in (
            "ERR_CHANNEL_HAS_INVALID_ROW_SEQUENCER",
            "ERR_CHANNEL_HAS_INVALID_CLIENT_SEQUENCER",
            "ERR_CHANNEL_MUST_BE_REOPENED",
            "STALE_PIPE_CACHE",
            "ERR_MALFORMED_CONTINUATION_TOKEN",
            "ERR_UNHEARD_OF",
        )
    ),
    Reply(413, {}, b""),
    Reply(415, {}, b'{"code": "X"}'),
    Reply(403, {}, b"<html>"),
]


@pytest.mark.parametrize("answer", _ANSWERS, ids=str)
def test_a_lone_swipe_is_set_aside_by_no_answer_that_passes(door: UploaderRig, answer: Reply) -> None:
    door.keep(3)
    door.drain()
    door.pipe.fails = lambda endpoint: answer if endpoint == "append" else None
    door.keep(1)
    door.run(3000)
    aside = read_counts(door.state_dir).set_aside

    door.pipe.fails = lambda _: None
    door.drain()

    assert aside == 0
    assert landed(door) == [1, 2, 3, 4]
    assert held(door, "set_aside") == []


def test_an_outage_between_two_refusals_makes_no_row_a_suspect(door: UploaderRig) -> None:
    refusals, is_down = [Reply(400, {}, b'{"code": "ERR_ROWS"}')], False

    def fails(endpoint: str) -> Reply | None:
        if is_down:
            return Reply(503, {}, b"")
        return refusals.pop() if refusals and endpoint == "append" else None

    door.pipe.fails = fails
    door.keep(1)
    door.run(2)
    assert not refusals
    is_down = True
    door.keep(3)
    door.run(7200)

    refusals, is_down = [Reply(400, {}, b'{"code": "ERR_ROWS"}')] * 2, False
    door.drain()

    assert not refusals
    assert landed(door) == [1, 2, 3, 4]
    assert held(door, "set_aside") == []


@pytest.mark.parametrize("bad", [[7], [7, 8, 9]], ids=str)
def test_a_crash_while_a_row_is_suspected_neither_loses_nor_doubles(
    door: UploaderRig, bad: list[int]
) -> None:
    door.pipe.refuses = cards(*bad)
    door.keep(12)
    door.run(3570)
    crashes = 0
    for _ in range(300):
        door.run(0.3 * (1 + crashes % 20))
        if door.outbox.state.record.suspect_n:
            crashes += 1
            door.crash()

    door.drain()

    assert crashes > 0
    assert landed(door) == without(12, bad)
    assert held(door, "set_aside") == [(seq, seq) for seq in bad]


def test_what_an_operator_released_stays_out_of_the_live_rows(door: UploaderRig) -> None:
    door.pipe.refuses = cards(4)
    door.keep(5)
    door.drain()
    holds.release(door.state_dir, None)

    door.crash()
    door.keep(2)
    door.drain()

    assert landed(door) == [1, 2, 3, 5, 6, 7]
    assert read_counts(door.state_dir).pending == 0


def test_a_pipe_that_refuses_everything_sets_nothing_aside_and_costs_few_writes(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    door.drain()
    flushes = door.outbox.file.flushes
    for _ in range(1440):
        door.clock.advance(60)
        door.uploader.step()
    in_an_idle_day = door.outbox.file.flushes - flushes  # observations of the clock
    door.pipe.refuses = lambda _: True
    door.keep(60)
    door.run(120)
    flushes, lines = door.outbox.file.flushes, len(caplog.records)

    door.run(86_400)
    status, counts = door.uploader.status(), read_counts(door.state_dir)
    written = door.outbox.file.flushes - flushes
    last = door.pipe.of("append")[-1]
    door.pipe.refuses = cards()
    door.drain()

    assert (status.state, counts.pending, counts.set_aside) == ("holding", 60, 0)
    assert written <= in_an_idle_day + 10
    assert len(last.body) < 1000  # one row at a time
    assert len(caplog.records) - lines <= 1450  # at most one line a minute
    assert landed(door) == list(range(1, 61))
    assert held(door, "set_aside") == []


def test_restarts_against_a_pipe_that_refuses_everything_set_nothing_aside(door: UploaderRig) -> None:
    door.pipe.refuses = lambda _: True
    door.keep(200)
    for _ in range(14):
        door.run(5000)
        door.crash()
        assert held(door, "set_aside") == []

    door.pipe.refuses = cards()
    door.drain()

    assert landed(door) == list(range(1, 201))
    assert held(door, "set_aside") == []


def test_a_row_refused_after_a_time_when_all_were_refused_is_still_found(door: UploaderRig) -> None:
    door.pipe.refuses = lambda _: True
    door.keep(60)
    door.run(7200)

    door.pipe.refuses = cards(2, 50)
    door.drain()

    assert landed(door) == without(60, [2, 50])
    assert held(door, "set_aside") == [(2, 2), (50, 50)]


def test_refused_credentials_never_set_a_row_aside(door: UploaderRig) -> None:
    door.run()
    door.pipe.faults += [Refuse(403)] * 80
    door.keep(5)

    door.drain()

    assert landed(door) == [1, 2, 3, 4, 5]
    assert read_counts(door.state_dir).set_aside == 0


# --- requests that are too large ------------------------------------------------------------------


def test_a_batch_that_is_too_large_is_split(door: UploaderRig) -> None:
    door.pipe.takes_bytes = 3_000
    door.keep(300)

    door.drain()

    assert landed(door) == list(range(1, 301))
    assert held(door, "set_aside") == []


def test_what_is_too_large_is_learned_and_rarely_tried_again(door: UploaderRig) -> None:
    door.pipe.takes_bytes = 100_000
    door.keep(4000)
    door.drain()
    learned = len(door.pipe.of("append"))
    door.keep(4000)

    door.drain()

    sizes = [len(seen.body) for seen in door.pipe.of("append")[learned:]]
    assert landed(door) == list(range(1, 8001))
    assert sum(size > 100_000 for size in sizes) <= 1


@pytest.mark.parametrize(
    ("way_takes_bytes", "bytes_per_s"), [(100_000, 1e9), (1_400, 1e9), (4_000_000, 8_000)]
)
def test_a_backlog_drains_on_a_way_that_breaks_large_requests_or_is_slow(
    door: UploaderRig, way_takes_bytes: int, bytes_per_s: float
) -> None:
    door.pipe.way_takes_bytes, door.pipe.bytes_per_s = way_takes_bytes, bytes_per_s
    door.keep(6000 if way_takes_bytes > 2_000 else 300)

    door.run(1200)

    assert landed(door) == list(range(1, door.kept + 1))
    assert held(door, "set_aside") == []


def test_after_an_outage_that_broke_every_request_requests_grow_again(door: UploaderRig) -> None:
    door.keep(3000)
    door.pipe.faults += [Lose(processed=False)] * 60
    door.run(3600)
    door.keep(3000)
    appends = len(door.pipe.of("append"))

    door.run(60)

    assert landed(door) == list(range(1, 6001))
    assert len(door.pipe.of("append")) - appends < 100


def test_a_row_that_is_too_large_on_its_own_is_set_aside_after_an_hour(door: UploaderRig) -> None:
    door.keep(3)
    door.drain()
    door.pipe.refuses = cards(4)
    door.pipe.refusal_status = 413
    door.keep(4)

    door.drain()

    assert landed(door) == [1, 2, 3, 5, 6, 7]
    assert held(door, "set_aside") == [(4, 4)]


# --- what an operator sees --------------------------------------------------------------------


def test_held_rows_can_be_read_and_released(door: UploaderRig) -> None:
    door.pipe.refuses = cards(2)
    door.keep(3)
    door.drain()
    (hold,) = holds.holds(door.state_dir)

    rows = [json.loads(row) for row in holds.held_rows(door.state_dir, hold.id)]
    released = holds.release(door.state_dir, [hold.id])

    assert [row["seq"] for row in rows] == [2]
    assert released == 1
    assert holds.holds(door.state_dir) == []
    assert holds.release(door.state_dir, [hold.id]) == 0


def test_no_card_is_in_the_reason_of_a_hold_or_in_the_log(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    door.pipe.refuses = cards(0x63E9AE)
    door.kept = 0x63E9AD
    door.keep(2)

    door.drain()

    reasons = looked_up(door.state_dir, "SELECT reason FROM held")
    assert "63E9AE" not in f"{caplog.text}{reasons}"
