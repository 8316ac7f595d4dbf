from __future__ import annotations

import pytest

from agent.clock.boot_history import BootHistory
from agent.clock.offset_model import OffsetSample
from agent.clock.reading import ClockReading

S = 1_000_000
WALL_US = 1_772_366_400 * S
_READ_EVERY_S, _DATE_EVERY_S, _DAY_S = 10, 600, 86_400
_BEGUN_S = 40_000  # a "yes" of timedated is worth the kernel's limit from here on


@pytest.mark.parametrize("with_dates", [False, True])
def test_a_clock_of_which_little_is_known_is_stored_a_few_times_a_day(
    with_dates: bool,  # noqa: FBT001 - pytest calls by name
) -> None:
    """Asked is timedated alone, once a minute; each answer of Snowflake has a time, which says more."""
    history, stored = BootHistory(), 0

    for second in range(_BEGUN_S, _BEGUN_S + _DAY_S, _READ_EVERY_S):
        error_us = 16 * S + 500 * (second % 60)
        has_date = with_dates and second % _DATE_EVERY_S == 0
        told_us = WALL_US + second % 7 * S // 20
        date = OffsetSample((second - 1) * S, told_us, 8 * S // 10) if has_date else None
        history.observe(ClockReading(WALL_US + second * S, "boot", second * S, True, error_us), date)
        if history.has_news:
            history.saved(history.unsaved())
            stored += 1

    assert 24 <= stored <= 60
