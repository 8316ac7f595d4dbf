from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.outbox import ErrorCount
from agent.uploader.error_ranges import LATE_S, SentBatches, new_errors


@pytest.mark.parametrize(
    ("known", "reported", "count"),
    [
        (None, ErrorCount(1, 0), 0),
        (None, ErrorCount(1, 3), 3),
        (ErrorCount(1, 3), ErrorCount(1, 3), 0),
        (ErrorCount(1, 3), ErrorCount(1, 5), 2),
        (ErrorCount(1, 3), ErrorCount(2, 2), 2),  # another channel of the same name
        (ErrorCount(1, 3), ErrorCount(1, 1), 0),
    ],
)
def test_errors_are_counted_since_the_last_count_of_the_same_channel(
    known: ErrorCount | None, reported: ErrorCount, count: int
) -> None:
    assert new_errors(known, reported) == count


def test_rows_are_not_final_before_a_count_that_can_be_read() -> None:
    batches = SentBatches((), (0, 0), 0.0)
    batches.sent((0, 4))
    batches.committed((0, 4), 0.0)

    asked = []
    while (due_s := batches.count_due_at) is not None:
        asked.append(due_s)
        assert batches.final == (0, 0)
        batches.counted(due_s, is_readable=False)

    assert batches.final == (0, 4)
    assert asked == [LATE_S * number for number in range(1, len(asked) + 1)]
    assert asked[-1] == 86_400


def test_the_first_count_that_can_be_read_makes_rows_final() -> None:
    batches = SentBatches((), (0, 0), 0.0)
    batches.sent((0, 4))
    batches.committed((0, 4), 0.0)
    batches.counted(LATE_S, is_readable=False)

    batches.counted(2 * LATE_S)

    assert batches.count_due_at is None
    assert batches.final == (0, 4)


def sent(*ends: int, committed: int = 0, counted: int = 0) -> SentBatches:
    """Batches that end at these rows, committed up to one row, and counted well up to another."""
    batches = SentBatches((), (0, 0), 0.0)
    for end in ends:
        batches.sent((0, end))
    batches.committed((0, counted), 0.0)
    batches.counted(LATE_S)
    batches.committed((0, committed), LATE_S)
    return batches


# The batches; the rise of the count, its bound, the position reported; the rows held: after, last.
TABLE: dict[str, tuple[SentBatches, int, int | None, int, tuple[int, int] | None]] = {
    "no bound: all that is not counted well": (sent(4, 8, 12, committed=4), 1, None, 8, (0, 12)),
    "the batch that contains the bound": (sent(4, 8, 12, committed=4), 1, 6, 8, (4, 8)),
    "a bound at the end of a batch": (sent(4, 8, 12, committed=4), 1, 8, 8, (4, 8)),
    "a bound among what is sent and not committed": (sent(4, 8, 12, committed=8), 1, 11, 8, (8, 12)),
    "a bound beyond what was sent is not believed": (sent(4, 8, committed=8), 1, 13, 8, (0, 8)),
    "counted late": (sent(4, 8, 12, committed=12), 1, 6, 12, (4, 8)),
    "two errors: from the oldest batch": (sent(4, 8, 12, committed=12), 2, 8, 12, (0, 8)),
    "two errors after a good count": (sent(4, 8, 12, committed=12, counted=4), 2, 8, 12, (4, 8)),
    "after a good count, without a bound": (sent(4, 8, 12, committed=12, counted=4), 1, None, 12, (4, 12)),
    "counted later than expected": (sent(4, 8, committed=8, counted=8), 1, 2, 8, (0, 4)),
    "later than expected, without a bound": (sent(4, 8, committed=8, counted=8), 1, None, 8, (0, 8)),
    "committed by an earlier process": (sent(), 1, 3, 4, (0, 4)),
    "no row was ever sent": (sent(), 1, None, 0, None),
}


@pytest.mark.parametrize(
    ("batches", "count", "bound", "reported", "expected"), TABLE.values(), ids=TABLE.keys()
)
def test_new_errors_fall_on_a_range_that_contains_them(
    batches: SentBatches, count: int, bound: int | None, reported: int, expected: tuple[int, int] | None
) -> None:
    found = batches.with_errors(count, None if bound is None else (0, bound), (0, reported))

    assert found == (expected and ((0, expected[0]), (0, expected[1])))


def test_a_bound_before_every_known_batch_holds_its_row_and_all_after_it() -> None:
    batches = SentBatches(((0, 10), (0, 12)), (0, 12), 0.0)

    assert batches.with_errors(1, (0, 5), (0, 12)) == ((0, 4), (0, 12))


def test_a_range_may_span_replays() -> None:
    batches = SentBatches((), (1, 9), 0.0)
    batches.sent((2, 5))

    assert batches.with_errors(1, (2, 3), (2, 5)) == ((1, 9), (2, 5))


def test_what_is_stored_gives_the_same_ranges_after_a_restart() -> None:
    batches = sent(4, 8, 12, committed=8)

    restored = SentBatches(batches.bounds, (0, 8), 0.0)
    restored.reopened((0, 11), 1.0)

    assert restored.with_errors(1, (0, 6), (0, 11)) == ((0, 4), (0, 8))
    assert restored.with_errors(1, (0, 10), (0, 11)) == ((0, 8), (0, 11))
    assert restored.count_due_at == 1.0 + LATE_S


def test_a_long_backlog_keeps_few_bounds_and_loses_no_row() -> None:
    batches = sent(*range(1, 1001), committed=1000)

    assert len(batches.bounds) <= 66
    assert batches.with_errors(2, None, (0, 1000)) == ((0, 0), (0, 1000))


def test_the_rows_of_a_stream_without_a_pause_become_final_and_keep_narrow_ranges() -> None:
    batches = SentBatches((), (0, 0), 0.0)
    for second in range(1, 3601):
        batches.sent((0, second))
        batches.committed((0, second), second)
        batches.counted(second)

    assert 3600 - 330 <= batches.final[1] <= 3600 - LATE_S + 1
    assert len(batches.bounds) <= 66
    after, last = batches.with_errors(1, (0, 3450), (0, 3600)) or ((0, 0), (0, 0))
    assert last[1] - after[1] <= 15


@given(
    ends=st.lists(st.integers(1, 500), min_size=1, unique=True).map(sorted),
    at=st.data(),
    count=st.integers(1, 3),
)
def test_the_range_of_any_error_contains_it(ends: list[int], at: st.DataObject, count: int) -> None:
    bad = at.draw(st.integers(1, ends[-1]))
    batches = sent(*ends, committed=at.draw(st.sampled_from(ends)))
    bound = next(end for end in ends if end >= bad)

    for found in (batches.with_errors(count, (0, bound), (0, 0)), batches.with_errors(count, None, (0, 0))):
        assert found is not None
        assert found[0] < (0, bad) <= found[1]
