from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outbox import LiveRows, Outbox, read_counts
from agent.outbox.external import holds
from tests.support.outbox_rig import (
    at,
    commit,
    keep,
    keep_read_at,
    looked_up,
    opened,
    purge,
    rows_after,
    seqs,
    set_aside,
)
from tests.support.swipes import swipe


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(opened(tmp_path)) as outbox:
        yield outbox


def test_committed_rows_that_are_old_enough_go(outbox: Outbox) -> None:
    keep_read_at(outbox, (0, True), (1, True), (2, True))
    commit(outbox, 3)

    assert purge(outbox, 2) == 2
    assert [row["seq"] for row in rows_after(outbox)] == [3]


def test_pending_rows_stay_whatever_their_age(outbox: Outbox) -> None:
    keep_read_at(outbox, (0, True), (1, True), (2, True))
    commit(outbox, 1)

    assert purge(outbox, 1_000_000) == 1
    assert [row["seq"] for row in rows_after(outbox)] == [2, 3]


def test_a_time_of_an_untrusted_clock_purges_nothing(outbox: Outbox) -> None:
    keep_read_at(outbox, (-(10**9), False), (-(10**9), False))
    commit(outbox, 2)

    assert purge(outbox, 1_000_000) == 0


def test_an_old_trusted_row_vouches_for_what_was_read_before_it(outbox: Outbox) -> None:
    keep_read_at(outbox, (9, False), (0, True), (9, False), (5, True))
    commit(outbox, 4)

    assert purge(outbox, 1) == 2
    assert [row["seq"] for row in rows_after(outbox)] == [3, 4]


def test_a_week_without_a_trusted_clock_does_not_block_the_purge_for_ever(outbox: Outbox) -> None:
    keep_read_at(outbox, *[(0, False)] * 1200, (0, True), (5, True))
    commit(outbox, 1202)

    gone = [purge(outbox, 1) for _ in range(4)]

    assert gone == [500, 500, 201, 0]


def test_numbers_are_not_used_again_after_everything_was_purged(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        commit(outbox, 5)
        purge(outbox, 1)
        assert rows_after(outbox) == []

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(6))

        assert [row["seq"] for row in rows_after(outbox)] == [6]


# --- what waits for an operator, and a file that grows too large ------------------------------


def test_rows_that_are_held_stay_until_they_are_released(tmp_path: Path, outbox: Outbox) -> None:
    keep_read_at(outbox, *((second, True) for second in range(1, 9)))
    set_aside(outbox, 6)
    commit(outbox, 8, rejected=(2, 3))

    before = purge(outbox, 100)
    holds.release(tmp_path, None)
    after = purge(outbox, 100)

    assert (before, after) == (5, 3)
    assert looked_up(tmp_path, "SELECT count(*) FROM swipes") == [(0,)]
    assert looked_up(tmp_path, "SELECT count(*) FROM held") == [(0,)]


def test_numbers_go_on_where_held_rows_are_older_than_what_was_purged(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 5)
        commit(outbox, 5, rejected=(2, 3))
        purge(outbox, 100)
        chain = outbox.state.last_chain

    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(6))

        assert (outbox.last_seq, outbox.committed_seq, outbox.pending) == (6, 5, 1)
        assert seqs(rows_after(outbox, 5)) == [6]
        assert read_counts(tmp_path).pending == 1
        assert chain != outbox.state.last_chain


def test_a_released_row_that_is_still_pending_stays_out_and_stays_stored(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 3)
        set_aside(outbox, 2)
        holds.release(tmp_path, None)
        purge(outbox, 100)

    with closing(opened(tmp_path)) as outbox:
        assert seqs(rows_after(outbox)) == [1, 3]
        assert outbox.pending == 2


def test_past_the_byte_limit_the_oldest_committed_rows_go_whatever_their_age(outbox: Outbox) -> None:
    keep_read_at(outbox, *((0, False) for _ in range(1200)))
    commit(outbox, 1100)

    gone = [outbox.purge(kept_since_us=None, max_bytes=1) for _ in range(4)]

    assert gone == [500, 500, 100, 0]
    assert seqs(rows_after(outbox)) == list(range(1101, 1201))


def test_below_the_byte_limit_nothing_goes_for_its_size(outbox: Outbox) -> None:
    keep_read_at(outbox, *((9, True) for _ in range(100)))
    commit(outbox, 100)

    assert outbox.purge(kept_since_us=None, max_bytes=10**9) == 0


def test_what_was_freed_is_used_again(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        for _ in range(6):
            keep(outbox, 400)
            commit(outbox, outbox.last_seq)
            purge(outbox, 100)

    size = (tmp_path / "outbox.db").stat().st_size

    assert size < 3_000_000


# --- against a plain list -------------------------------------------------------------------

ACTIONS = st.one_of(
    st.tuples(st.just("keep"), st.lists(st.booleans(), min_size=1, max_size=4)),
    st.tuples(st.just("mark"), st.integers(0, 40)),
    st.tuples(st.just("purge"), st.integers(0, 40)),
    st.tuples(st.just("reopen"), st.none()),
)


class PlainList:
    """The outbox as a list in memory: every swipe ever kept, and how far two marks have moved."""

    def __init__(self) -> None:
        self.trusted: list[bool] = []
        self.committed = 0
        self.purged = 0

    def keep(self, trusted: list[bool]) -> None:
        self.trusted += trusted

    def mark(self, seq: int) -> None:
        self.committed = max(self.committed, min(seq, len(self.trusted)))

    def purge(self, kept_since: int) -> None:
        """A swipe's number is also the second at which it was read."""
        old = [s for s in range(1, self.committed + 1) if self.trusted[s - 1] and s < kept_since]
        self.purged = max([self.purged, *old])


@settings(max_examples=25, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=25))
def test_an_outbox_does_what_a_list_would(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, Any]]
) -> None:
    state_dir, model = tmp_path_factory.mktemp("outbox"), PlainList()
    outbox = opened(state_dir)
    try:
        for action, argument in actions:
            match action:
                case "keep":
                    first = len(model.trusted) + 1
                    keep_read_at(outbox, *((first + n, trusted) for n, trusted in enumerate(argument)))
                    model.keep(argument)
                case "mark":
                    commit(outbox, min(argument, len(model.trusted)))
                    model.mark(argument)
                case "purge":
                    purge(outbox, argument)
                    model.purge(argument)
                case "reopen":
                    outbox.close()
                    outbox = opened(state_dir)

            assert outbox.last_seq == len(model.trusted)
            assert outbox.committed_seq == model.committed
            stored = [*range(model.purged + 1, len(model.trusted) + 1)]
            assert [row["seq"] for row in rows_after(outbox)] == stored
            live = LiveRows(outbox)
            committed = live.committed_token()
            assert committed is None or live.position_of(committed) == at(outbox, model.committed)
            assert outbox.pending == len(model.trusted) - model.committed
            assert read_counts(state_dir).pending == outbox.pending
    finally:
        outbox.close()
