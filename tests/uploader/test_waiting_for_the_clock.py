from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.keys.keypair import KeyPair
from tests.support.pipe_model import Refuse
from tests.support.uploader_rig import UploaderRig

HOLD_S = 120


@pytest.fixture
def unset(tmp_path: Path, key: KeyPair) -> Iterator[UploaderRig]:
    """A door that woke up in 1970."""
    (tmp_path / "unset").mkdir()
    door = UploaderRig(tmp_path / "unset", key, wall_off_s=-1_772_366_400.0)
    yield door
    door.close()


def set_clock(door: UploaderRig) -> None:
    door.clock.wall_off_s = 0.0
    door.clock.trusted = True


def test_swipes_wait_for_the_clock_and_go_as_soon_as_it_is_set(unset: UploaderRig) -> None:
    unset.keep(3)
    unset.run(30)
    went_before = list(unset.pipe.table)
    set_clock(unset)

    unset.run(2)

    assert went_before == []
    assert unset.pipe.table == [1, 2, 3]
    assert {row["clock"] for _, row in unset.pipe.landed} == {"corrected"}


def test_they_wait_no_longer_than_was_configured(unset: UploaderRig) -> None:
    unset.keep(3)
    unset.run(HOLD_S - 2)
    went_before = list(unset.pipe.table)

    unset.run(5)

    assert went_before == []
    assert unset.pipe.table == [1, 2, 3]
    assert {row["clock"] for _, row in unset.pipe.landed} == {"estimated"}


def test_long_after_the_start_nothing_waits_any_more(unset: UploaderRig) -> None:
    unset.clock.advance(HOLD_S)
    unset.keep(1)

    unset.drain()

    assert unset.pipe.table == [1]


def test_an_agent_that_starts_again_waits_again(unset: UploaderRig) -> None:
    unset.clock.advance(HOLD_S)
    unset.new_uploader()
    unset.keep(1)

    unset.run(HOLD_S - 2)

    assert unset.pipe.table == []


def test_restarts_do_not_prolong_the_wait_of_a_swipe(unset: UploaderRig) -> None:
    unset.keep(1)
    for _ in range(3):
        unset.run(HOLD_S / 4)
        unset.crash()
    went_before = list(unset.pipe.table)

    unset.run(HOLD_S / 4 + 5)

    assert went_before == []
    assert unset.pipe.table == [1]


def test_swipes_with_a_trusted_time_never_wait(door: UploaderRig) -> None:
    door.keep(3)
    door.clock.trusted = False
    door.new_uploader()

    door.run(1)

    assert door.pipe.table == [1, 2, 3]


def test_while_they_wait_the_status_says_so(unset: UploaderRig) -> None:
    unset.keep(3)
    unset.run(20)

    status = unset.uploader.status()

    assert (status.state, status.consecutive_failures) == ("waiting", 0)
    assert status.reason == "swipes wait for the clock to be synchronised"
    assert status.next_try_seconds == pytest.approx(HOLD_S - 20, abs=2)


def test_a_replay_does_not_wait(unset: UploaderRig) -> None:
    unset.clock.advance(HOLD_S)
    unset.keep(2)
    unset.drain()
    times = [row["event_timestamp"] for _, row in unset.pipe.landed]
    unset.new_uploader()
    unset.keep(1)
    unset.replay(first_seq=1, last_seq=2)

    unset.run(20)

    assert unset.pipe.replayed == [1, 2]
    assert [row["event_timestamp"] for _, row in unset.pipe.landed[2:]] == times


def test_a_row_that_is_sent_again_after_a_refusal_is_the_same(unset: UploaderRig) -> None:
    unset.clock.advance(HOLD_S)
    unset.keep(1)
    unset.pipe.faults += [Refuse(503)] * 4

    unset.drain()

    assert len({seen.body for seen in unset.pipe.of("append")}) == 1


def test_a_crash_between_a_row_and_its_commit_leaves_one_time(unset: UploaderRig) -> None:
    unset.clock.advance(HOLD_S)
    unset.keep(3)
    unset.pipe.lag_s = 0.0
    unset.run(0.03)
    unset.crash()
    unset.drain()

    rows = [row for _, row in unset.pipe.landed]
    replayed = unset.replay(first_seq=1)

    assert [json.loads(row)["event_timestamp"] for row in replayed] == [
        row["event_timestamp"] for row in rows
    ]
