from __future__ import annotations

import logging
import math
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.log.message_ids import MessageId, fields_of
from agent.readers.flood_monitor import FLOOD_PER_SECOND, FLOOD_SECONDS, FloodMonitor

# So many swipes in each second.
COUNTS = st.lists(st.sampled_from([0, 1, 20, 21, 21, 21, 21, 50]), max_size=60)


def states(swipes: Counter[int], until: int) -> list[bool]:
    """Whether the reader floods at the begin of each second, by the words of the rule."""
    found, since = [False], 0
    for second in range(until):
        flooding = found[-1]
        is_run = second + 1 - since >= FLOOD_SECONDS and all(
            (swipes[one] > FLOOD_PER_SECOND) != flooding
            for one in range(second + 1 - FLOOD_SECONDS, second + 1)
        )
        found.append(flooding != is_run)
        since = second + 1 if is_run else since
    return found


@given(COUNTS)
def test_a_reader_floods_from_ten_seconds_of_more_than_20_swipes_to_ten_of_at_most_20(
    counts: list[int],
) -> None:
    monitor = FloodMonitor("RDR-101")
    begin = 5_000

    found = []
    for second, count in enumerate(counts):
        monitor.update(begin + second)
        found.append(monitor.flooding)
        for number in range(count):
            monitor.swipe_read(begin + second + number / count)
    monitor.update(begin + len(counts))

    assert [*found, monitor.flooding] == states(Counter(dict(enumerate(counts))), len(counts))


@given(COUNTS)
def test_who_updates_only_when_a_state_may_change_finds_the_same_states(counts: list[int]) -> None:
    """The thread of a reader sleeps until then, or until the next bytes."""
    often, seldom = FloodMonitor("RDR-101"), FloodMonitor("RDR-101")

    for second, count in enumerate(counts, start=1_000):
        often.update(second)
        if count or seldom.wait_s(second - 0.5) <= 0.5:
            seldom.update(second)
        for _ in range(count):
            often.swipe_read(second + 0.5)
            seldom.swipe_read(second + 0.5)

        assert seldom.flooding == often.flooding


def test_begin_and_end_are_one_line_each(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    monitor = FloodMonitor("RDR-101")

    changes = [monitor.swipe_read(100 + number / 25) for number in range(25 * 30)]
    waited_s = monitor.wait_s(130.0)
    ended = [monitor.update(now_s) for now_s in (131.0, 139.9, 140.0, 141.0)]

    assert changes.count(True) == 1
    assert changes.index(True) == 25 * FLOOD_SECONDS
    assert waited_s == FLOOD_SECONDS - 1
    assert ended == [False, False, True, False]
    assert monitor.wait_s(141.0) == math.inf
    assert [(record.levelname, fields_of(record)["MESSAGE_ID"]) for record in caplog.records] == [
        ("ERROR", MessageId.READER_FLOODING),
        ("INFO", MessageId.READER_FLOOD_ENDED),
    ]
    assert all(fields_of(record)["READER"] == "RDR-101" for record in caplog.records)


@pytest.mark.parametrize("frames", [300, 4_096])
def test_bytes_that_waited_during_a_restart_are_no_flood(frames: int) -> None:
    """All of them are read at one moment, and people present cards before and after."""
    monitor = FloodMonitor("RDR-101")

    for now_s in (*range(100, 110), *[110] * frames, *range(111, 130)):
        monitor.swipe_read(now_s)

        assert not monitor.flooding


def test_seconds_without_an_update_count_as_seconds_without_a_swipe() -> None:
    monitor = FloodMonitor("RDR-101")
    times = [100 + number / 25 for number in range(25 * 40) if not 200 <= number < 225]

    for now_s in times:
        monitor.swipe_read(now_s)
    gaps = [after - before for before, after in pairwise(times)]

    assert max(gaps) > 1.0
    assert monitor.flooding
