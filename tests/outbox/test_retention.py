from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.outbox import LiveRows, Outbox, read_counts
from agent.outbox.external import holds, replay_queue
from agent.outbox.retention import WalErasure
from agent.readers.events import raw_hex
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


@pytest.mark.parametrize("wrong", [1, 40, 700], ids=["one row", "40 rows", "more than a step"])
def test_rows_from_the_future_do_not_end_the_purge_by_age(outbox: Outbox, wrong: int) -> None:
    keep_read_at(outbox, *((n, True) for n in range(20)))
    keep_read_at(outbox, *((10**9 + n, True) for n in range(wrong)))
    keep_read_at(outbox, *((n, True) for n in range(20, 20 + 4 * wrong + 20)), (10**6, True))
    commit(outbox, outbox.last_seq)

    while purge(outbox, 10**5):
        pass

    assert [row["seq"] for row in rows_after(outbox)] == [outbox.last_seq]


def test_one_row_from_the_past_does_not_purge_the_younger_rows_before_it(outbox: Outbox) -> None:
    keep_read_at(outbox, (0, True), (50, True), (51, True), (1, True), (52, True))
    commit(outbox, 5)

    assert purge(outbox, 10) == 1


def test_the_cost_of_a_step_does_not_grow_with_the_number_of_holds(tmp_path: Path, outbox: Outbox) -> None:
    keep_read_at(outbox, *((n, True) for n in range(6_000)))
    commit(outbox, 6_000)
    with outbox.writing() as connection:
        connection.executemany(
            "INSERT INTO held(kind, first_n, last_n, reason) VALUES ('set_aside', ?, ?, 'refused')",
            [(n, n) for n in range(1, 10_001, 2)],
        )
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    for connection in (outbox.file._reader, outbox.file._writer):
        connection.set_progress_handler(count, 1_000)
    assert purge(outbox, 10**6) == 500

    # Per row and hold, as before, these were 2,500,000 comparisons and more.
    assert steps < 1_000
    assert looked_up(tmp_path, "SELECT min(n) FROM swipes WHERE n % 2 = 0") == [(1_002,)]


def test_a_replay_that_is_requested_during_a_step_keeps_its_rows(tmp_path: Path, outbox: Outbox) -> None:
    keep_read_at(outbox, *((n, True) for n in range(5)))
    commit(outbox, 5)

    def request(statement: str) -> None:
        if "released = 1" in statement:  # the rows are chosen, and not deleted yet
            outbox.file._reader.set_trace_callback(None)
            replay_queue.request(tmp_path, [replay_queue.Range(2, 3, None, 2)])

    outbox.file._reader.set_trace_callback(request)

    assert purge(outbox, 100) == 0
    assert purge(outbox, 100) == 3
    assert looked_up(tmp_path, "SELECT n FROM swipes ORDER BY n") == [(2,), (3,)]


def test_the_badge_ids_of_purged_rows_are_gone_from_the_file_and_its_log(tmp_path: Path) -> None:
    """As they stand in the files while the outbox is open, a day after the purge."""
    now_s = 0.0
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 700)
        outbox.keep(swipe(0xABCDEF))
        commit(outbox, 700)
        erasure = WalErasure(outbox.file, now_s=lambda: now_s)
        flushes = outbox.file.flushes
        for freed in (purge(outbox, 100), purge(outbox, 100), purge(outbox, 100)):
            erasure.after_step(freed)
        assert any(_purged_ids_in(tmp_path).values())
        now_s += 86_400.0
        erasure.after_step(0)

        left = _purged_ids_in(tmp_path)
        assert outbox.file.flushes == flushes
        assert rows_after(outbox)[0]["badge_id"] == f"40:{raw_hex(40, 0xABCDEF)}"
        wal_bytes = (tmp_path / "outbox.db-wal").stat().st_size

    assert left == {"outbox.db": 0, "outbox.db-wal": 0}
    assert wal_bytes > 1_000_000  # grown again: a swipe overwrites allocated space


def _purged_ids_in(state_dir: Path) -> dict[str, int]:
    return {
        name: sum(raw_hex(40, value).encode() in content for value in range(1, 701))
        for name in ("outbox.db", "outbox.db-wal")
        for content in [(state_dir / name).read_bytes()]
    }


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
