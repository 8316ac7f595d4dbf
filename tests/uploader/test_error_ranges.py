from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.outbox import ErrorCount, Position
from agent.uploader.error_ranges import Progress, error_range, new_errors


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


# Positions of live rows by their n: moved_from, committed, reported, sent; bound; after, last.
TABLE: dict[str, tuple[tuple[int, int, int, int], int | None, tuple[int, int] | None]] = {
    "no bound: all that this status commits": ((0, 4, 8, 12), None, (4, 8)),
    "a bound among what this status commits": ((0, 4, 8, 12), 6, (4, 6)),
    "a bound at the end of what this status commits": ((0, 4, 8, 12), 8, (4, 8)),
    "a bound among what is sent and not committed": ((0, 4, 8, 12), 11, (4, 11)),
    "a bound beyond what was sent is not believed": ((0, 4, 8, 12), 13, (4, 8)),
    "nothing committed yet, no bound: all that is sent": ((0, 4, 4, 12), None, (4, 12)),
    "nothing committed yet, a bound": ((0, 4, 4, 12), 5, (4, 5)),
    "counted late: the rows of the last commit": ((4, 8, 8, 8), 6, (4, 8)),
    "counted late, while more was committed": ((4, 8, 12, 12), 6, (4, 12)),
    "counted late, without a bound": ((4, 8, 8, 8), None, (4, 8)),
    "counted late, no commit recorded: the row of the bound": ((8, 8, 8, 8), 6, (5, 6)),
    "no row was ever sent": ((0, 0, 0, 0), None, None),
    "no commit recorded and no bound": ((8, 8, 8, 8), None, None),
    "the server reports less than was committed": ((4, 8, 6, 8), None, (4, 8)),
}


@pytest.mark.parametrize(("progress", "bound", "expected"), TABLE.values(), ids=TABLE.keys())
def test_new_errors_fall_on_a_range_that_contains_them(
    progress: tuple[int, int, int, int], bound: int | None, expected: tuple[int, int] | None
) -> None:
    moved_from, committed, reported, sent = ((0, n) for n in progress)

    found = error_range(
        Progress(moved_from, committed, reported, sent), None if bound is None else (0, bound)
    )

    assert found == (expected and ((0, expected[0]), (0, expected[1])))


def test_a_range_may_span_replays() -> None:
    progress = Progress((1, 9), (1, 9), (2, 5), (2, 7))

    assert error_range(progress, (2, 6)) == ((1, 9), (2, 6))
    assert error_range(progress, None) == ((1, 9), (2, 5))


_POSITIONS = st.tuples(st.integers(0, 3), st.integers(0, 9))


@given(st.lists(_POSITIONS, min_size=4, max_size=4).map(sorted), st.none() | _POSITIONS)
def test_a_range_is_never_empty_and_contains_a_bound_that_was_sent(
    positions: list[Position], bound: Position | None
) -> None:
    progress = Progress(*positions)

    found = error_range(progress, bound)

    if found is not None:
        assert found[0] < found[1]
        if bound is not None and progress.moved_from < bound <= progress.sent:
            assert found[0] < bound <= found[1]
