from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.keys.keypair import KeyPair
from agent.outbox import read_counts
from agent.outbox.external import holds
from tests.support.outbox_rig import looked_up
from tests.support.pipe_model import Refuse
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

    assert held(door, "rejected") == [(5, 12)]


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


@pytest.mark.parametrize(
    "bad",
    [[1], [17], [40], [39, 40], [1, 2, 3], [20, 21], [7, 23, 24, 31], list(range(10, 31))],
    ids=str,
)
def test_rows_that_are_refused_are_set_aside_and_no_other_is_kept_up(
    door: UploaderRig, bad: list[int]
) -> None:
    door.pipe.refuses = cards(*bad)
    door.keep(40)
    door.drain()
    door.keep(5)

    door.drain()

    assert landed(door) == without(45, bad)
    assert held(door, "set_aside") == [(seq, seq) for seq in bad]
    assert read_counts(door.state_dir).set_aside == len(bad)


@settings(max_examples=30, deadline=None)
@given(
    bad=st.sets(st.integers(1, 60), max_size=24),
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
    door.drain()

    assert landed(door) == without(door.kept, bad)
    assert held(door, "set_aside") == [(seq, seq) for seq in sorted(bad) if seq <= door.kept]
    door.close()


def test_a_crash_in_the_middle_of_narrowing_down_neither_loses_nor_doubles(door: UploaderRig) -> None:
    door.pipe.refuses = cards(7, 8, 30)
    door.keep(40)

    for _ in range(12):
        door.run(0.05)
        door.crash()
    door.drain()

    assert landed(door) == without(40, [7, 8, 30])
    assert held(door, "set_aside") == [(7, 7), (8, 8), (30, 30)]


def test_what_an_operator_released_stays_out_of_the_live_rows(door: UploaderRig) -> None:
    door.pipe.refuses = cards(5)
    door.keep(5)
    door.drain()
    holds.release(door.state_dir, None)

    door.crash()
    door.keep(2)
    door.drain()

    assert landed(door) == [1, 2, 3, 4, 6, 7]
    assert read_counts(door.state_dir).pending == 0


def test_when_row_after_row_is_refused_it_is_not_the_rows_fault(door: UploaderRig) -> None:
    door.pipe.refuses = lambda _: True
    door.keep(60)
    door.run(3600)
    status, counts = door.uploader.status(), read_counts(door.state_dir)

    door.pipe.refuses = cards()
    door.drain()

    assert (status.state, counts.pending + counts.set_aside) == ("holding", 60)
    assert landed(door) == list(range(1, 61))
    assert held(door, "set_aside") == []


def test_a_bad_row_is_still_found_after_a_time_when_all_were_refused(door: UploaderRig) -> None:
    door.pipe.refuses = lambda _: True
    door.keep(60)
    door.run(3600)

    door.pipe.refuses = cards(1, 2, 50)
    door.drain()

    assert landed(door) == without(60, [1, 2, 50])
    assert held(door, "set_aside") == [(1, 1), (2, 2), (50, 50)]


def test_a_pipe_that_refuses_everything_costs_little_and_is_told_once(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    door.pipe.refuses = lambda _: True
    door.keep(1000)
    door.run(1200)
    settled = len(caplog.records)
    appends = door.pipe.of("append")

    door.run(1200)

    later = door.pipe.of("append")[len(appends) :]
    assert max(len(seen.body) for seen in later) < 1000  # one row at a time
    assert len(caplog.records) - settled <= 21  # at most one line a minute


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


def test_what_is_too_large_is_learned_and_not_tried_again(door: UploaderRig) -> None:
    door.pipe.takes_bytes = 100_000
    door.keep(4000)
    door.drain()
    learned = len(door.pipe.of("append"))
    door.keep(4000)

    door.drain()

    sizes = [len(seen.body) for seen in door.pipe.of("append")[learned:]]
    assert landed(door) == list(range(1, 8001))
    assert max(sizes) <= 100_000


def test_a_row_that_is_too_large_on_its_own_is_set_aside(door: UploaderRig) -> None:
    door.keep(3)
    door.drain()
    door.pipe.takes_bytes = 10
    door.keep(1)
    door.run(0.4)
    door.pipe.takes_bytes = 4_000_000
    door.keep(3)

    door.drain()

    assert landed(door) == [1, 2, 3, 5, 6, 7]
    assert "too large" in holds.holds(door.state_dir)[0].reason


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
