from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.outbox import Position
from agent.uploader.refusals import REFUSED_IN_A_ROW, Refusals, Restore, SetAside, Split, Verdict

ALL = None  # no batch is being bisected


def accepted(n: int) -> Callable[[Refusals], Verdict | None]:
    return lambda refusals: refusals.accepted((0, n))


def refused(rows: int, n: int) -> Callable[[Refusals], Verdict | None]:
    return lambda refusals: refusals.refused(rows, (0, n))


def aside(n: int, *, repeated: bool = False) -> SetAside:
    return SetAside((0, n), repeated=repeated)


Step = tuple[Callable[[Refusals], Verdict | None], Verdict | None, int | None]

# What happened, what follows, and how many rows the next batch may have.
TABLE: dict[str, list[Step]] = {
    "an accepted batch limits nothing": [(accepted(8), None, ALL)],
    "a refused batch is halved": [(refused(8, 8), Split(), 4)],
    "an odd batch is halved downwards": [(refused(7, 7), Split(), 3)],
    "the first row is at fault": [
        (refused(4, 4), Split(), 2),
        (refused(2, 2), Split(), 1),
        (refused(1, 1), aside(1), ALL),
    ],
    "the last row is at fault": [
        (refused(4, 4), Split(), 2),
        (accepted(2), None, 2),
        (refused(2, 4), Split(), 1),
        (accepted(3), None, 1),
        (refused(1, 4), aside(4), ALL),
    ],
    "the limit ends with the batch that was refused first": [
        (refused(4, 4), Split(), 2),
        (accepted(2), None, 2),
        (accepted(4), None, ALL),
    ],
    "later rows in a half do not extend the bisection": [
        (refused(4, 4), Split(), 2),
        (refused(2, 6), Split(), 1),
        (accepted(3), None, 1),
        (accepted(4), None, ALL),
    ],
    "a single row is at fault immediately": [(refused(1, 1), aside(1), ALL)],
}


@pytest.mark.parametrize("steps", TABLE.values(), ids=TABLE.keys())
def test_each_outcome_decides_what_is_sent_next(steps: list[Step]) -> None:
    refusals = Refusals()

    found = [(happened(refusals), refusals.max_rows) for happened, _, _ in steps]

    assert found == [(verdict, max_rows) for _, verdict, max_rows in steps]


def refused_series(refusals: Refusals, first: int) -> list[Verdict]:
    return [refusals.refused(1, (0, n)) for n in range(first, first + REFUSED_IN_A_ROW)]


def test_a_long_series_of_refused_rows_restores_them_all() -> None:
    refusals = Refusals()

    *before, last = refused_series(refusals, 1)

    assert before == [aside(n) for n in range(1, REFUSED_IN_A_ROW)]
    assert last == Restore(tuple((0, n) for n in range(1, REFUSED_IN_A_ROW + 1)))
    assert refusals.max_rows == 1


def test_after_restored_rows_single_rows_are_tried_until_one_is_accepted() -> None:
    refusals = Refusals()
    refused_series(refusals, 1)

    again = refused_series(refusals, 1)
    limit = refusals.max_rows
    refusals.accepted((0, REFUSED_IN_A_ROW))

    assert again[0] == aside(1, repeated=True)
    assert isinstance(again[-1], Restore)
    assert limit == 1
    assert refusals.max_rows is ALL
    assert refusals.refused(1, (0, 90)) == aside(90)


def test_an_accepted_row_ends_the_series() -> None:
    refusals = Refusals()
    for n in range(1, REFUSED_IN_A_ROW):
        refusals.refused(1, (0, n))

    refusals.accepted((0, 50))

    assert refusals.refused(1, (0, 51)) == aside(51)


@given(st.sets(st.integers(1, 200), max_size=REFUSED_IN_A_ROW - 1), st.integers(1, 200))
def test_bisection_finds_exactly_the_rows_at_fault(bad: set[int], batch_rows: int) -> None:
    refusals, at = Refusals(), 0
    found: list[Position] = []

    while at < 200:
        skipped = {n for _, n in found}
        rows = [n for n in range(at + 1, 201) if n not in skipped][: refusals.max_rows or batch_rows]
        if not rows:
            break
        if bad.isdisjoint(rows):
            refusals.accepted((0, rows[-1]))
            at = rows[-1]
            continue
        verdict = refusals.refused(len(rows), (0, rows[-1]))
        if isinstance(verdict, SetAside):
            found.append(verdict.position)

    assert found == [(0, n) for n in sorted(bad)]
