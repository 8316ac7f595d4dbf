from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.clock.offset_model import (
    DRIFT,
    Boot,
    OffsetCurve,
    OffsetEstimate,
    OffsetSample,
    earliest_next_us,
    timings,
)
from agent.clock.reading import ClockReading

S, H = 1_000_000, 3_600_000_000
WALL_US = 1_772_366_400 * S
_MOST_DRIFT_US = 4 * DRIFT * 800 * S  # in all of a life, of lives()
BOOT_ID = "6f0c1d3e-5a7b-4c2d-9e8f-001122334455"


def boot(
    number: int = 1, *, last: int = H, points: tuple[OffsetSample, ...] = (), hint: int | None = None
) -> Boot:
    return Boot(number, f"boot-{number}", 0, last, 0, untrusted_offset_us=hint, points=points)


def seen(a_boot: Boot, boot_us: int, offset_us: int, *, trusted: bool = True, error_us: int = 0) -> Boot:
    return a_boot.after(ClockReading(offset_us + boot_us, BOOT_ID, boot_us, trusted, error_us))


def synchronised(boot_us: int, offset_us: int, error_us: int = 0) -> OffsetSample:
    return OffsetSample(boot_us, offset_us, error_us, sure=True)


# --- one boot -------------------------------------------------------------------------------


def test_a_moment_far_from_a_point_is_as_unsure_as_drift_makes_it() -> None:
    timing = OffsetCurve((synchronised(10 * H, WALL_US),))

    assert timing.at(0) == timing.at(20 * H) == OffsetEstimate(WALL_US, 10 * H * DRIFT, sure=True)


def test_between_two_points_the_offset_runs_in_a_straight_line() -> None:
    timing = OffsetCurve((synchronised(0, WALL_US), synchronised(10 * H, WALL_US + 10 * S)))

    found = timing.at(5 * H)

    assert found.offset_us == WALL_US + 5 * S
    assert found.bound_us == 5 * H * DRIFT + 5 * S
    assert timing.at(0).bound_us == 0


def test_a_run_of_looks_at_a_clock_that_nobody_sets_is_its_two_ends() -> None:
    known = boot(last=0)
    for second in range(1, 1_000):
        known = seen(known, second * S, WALL_US + second % 2)

    assert [point.boot_us for point in known.points] == [1 * S, 999 * S]


def test_a_reading_without_a_correction_since_the_last_point_adds_none() -> None:
    known = seen(seen(boot(last=0), 10 * S, WALL_US, error_us=20_000), 100 * S, WALL_US, error_us=10_000)

    later = seen(known, 5 * H, WALL_US, error_us=10_000 + int((5 * H - 100 * S) * DRIFT))

    assert [point.boot_us for point in later.points] == [10 * S, 100 * S]


def test_a_clock_that_was_set_since_is_known_as_well_as_the_kernel_states() -> None:
    known = seen(boot(last=0), 10 * S, 5 * S, trusted=False)

    later = seen(known, 20 * S, WALL_US, error_us=8 * S)

    assert later.points == (synchronised(20 * S, WALL_US, 8 * S),)
    assert later.sure_points == later.points


def test_a_correction_removes_the_points_about_which_it_says_more() -> None:
    known = seen(boot(last=0), 5 * H, WALL_US, error_us=8 * S)

    later = seen(known, 5 * H + 60 * S, WALL_US + 3 * S, error_us=1_000)

    assert later.points == (synchronised(5 * H + 60 * S, WALL_US + 3 * S, 1_000),)


def test_a_clock_that_stepped_was_wrong_before_however_large_its_error_may_be_now() -> None:
    known = seen(boot(last=0), 5 * H, WALL_US + 20 * S, error_us=16 * S)

    later = seen(known, 5 * H + 60 * S, WALL_US, error_us=16 * S)

    assert later.points == (synchronised(5 * H + 60 * S, WALL_US, 16 * S),)


def test_what_was_known_before_and_after_a_loss_of_the_time_server_stays() -> None:
    known = seen(seen(boot(last=0), 10 * S, WALL_US), H, WALL_US)

    later = seen(seen(known, 9 * H, WALL_US, trusted=False), 10 * H, WALL_US)

    assert [point.boot_us for point in later.points] == [10 * S, H, 10 * H]


def test_after_the_last_point_a_better_one_before_it_still_limits_the_error() -> None:
    timing = OffsetCurve((OffsetSample(0, WALL_US + S // 2, S), synchronised(100 * S, WALL_US, 16 * S)))

    assert timing.at(101 * S) == OffsetEstimate(WALL_US, 1.5 * S + 101 * S * DRIFT, sure=True)


@dataclasses.dataclass
class Crystal:
    """A clock that runs off, is corrected and is set; `truth` has the true offset at every change."""

    boot_us: int = 0
    truth: dict[int, float] = dataclasses.field(default_factory=lambda: {0: WALL_US})
    shown_us: int = 0
    corrected_us: int | None = None
    first_error_us: int = 0

    @property
    def offset_us(self) -> float:
        return self.truth[self.boot_us]

    def read(self) -> tuple[int, int, bool, int]:
        since_us = self.boot_us - (self.corrected_us or 0)
        error_us = math.ceil(self.first_error_us + since_us * DRIFT)
        trusted = self.corrected_us is not None and error_us < 16 * S
        return self.boot_us, self.shown_us, trusted, error_us if trusted else 0

    def run(self, us: int, rate: float) -> None:
        offset_us = self.offset_us + us * rate
        self.boot_us += us
        self.truth[self.boot_us] = offset_us

    def correct(self, error_us: int, part: float) -> None:
        self.shown_us = round(self.offset_us + error_us * part)
        self.corrected_us, self.first_error_us = self.boot_us, error_us

    def set_by_hand(self, off_us: int) -> None:
        self.shown_us, self.corrected_us = round(self.offset_us) + off_us, None


_PART = st.floats(-1, 1)
_CLOCK_EVENTS = st.one_of(
    st.tuples(
        st.just("run"), st.sampled_from((S // 3, 10 * S, 600 * S, H, 5 * H)), _PART.map(lambda x: x * DRIFT)
    ),
    st.tuples(st.just("correct"), st.sampled_from((0, 1_000, S // 10, 3 * S)), _PART),
    st.tuples(st.just("set"), st.integers(-(10**10), 10**10)),
    st.tuples(st.just("read")),
    st.tuples(st.just("server"), st.sampled_from((S, 5 * S)), _PART),
)


@settings(max_examples=1_000)
@given(st.lists(_CLOCK_EVENTS, max_size=40))
def test_the_bound_holds_at_every_moment_of_a_boot(events: list[tuple[Any, ...]]) -> None:
    clock, known = Crystal(), boot(last=0)
    for event in events:
        match event:
            case "run", us, rate:
                clock.run(us, rate)
            case "correct", error_us, part:
                clock.correct(error_us, part)
            case "set", off_us:
                clock.set_by_hand(off_us)
            case "server", error_us, part:
                sample = OffsetSample(clock.boot_us, round(clock.offset_us + error_us * part), error_us)
                known = known.with_server_sample(sample)
            case _:
                boot_us, offset_us, trusted, error_us = clock.read()
                known = seen(known, boot_us, offset_us, trusted=trusted, error_us=error_us)

    assume(known.points)
    for boot_us, true_us in clock.truth.items():
        found = OffsetCurve(known.points).at(boot_us)
        assert abs(found.offset_us - true_us) <= found.bound_us + 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from((10 * S, 600 * S, H, 3 * H)),
            st.none() | st.integers(-5 * S, 5 * S),
            st.sampled_from((S, 2 * S)),
        ),
        max_size=12,
    )
)
def test_samples_of_a_server_do_not_confirm_an_unchanged_clock(
    steps: list[tuple[int, int | None, int]],
) -> None:
    confirmed_us = now_us = 10 * S
    known = seen(boot(last=0), confirmed_us, WALL_US)

    for after_us, server_off_us, error_us in steps:
        now_us += after_us
        known = seen(known, now_us, WALL_US, error_us=int((now_us - confirmed_us) * DRIFT))
        if server_off_us is not None:
            known = known.with_server_sample(OffsetSample(now_us, WALL_US + server_off_us, error_us))

    assert known.sure_points == (synchronised(confirmed_us, WALL_US),)


@pytest.mark.parametrize(("error_us", "is_accepted"), [(1_126_400, True), (1_126_401, False)])
def test_a_mark_from_before_the_process_confirms_a_first_reading_if_it_is_recent(
    error_us: int,
    is_accepted: bool,  # noqa: FBT001 - pytest calls by name
) -> None:
    now = ClockReading(WALL_US + H, BOOT_ID, H, True, error_us, is_inherited=True)

    assert boot(last=0).accepts(now) == is_accepted


@given(st.integers(-3 * S, 3 * S))
def test_a_mark_from_before_the_process_confirms_only_the_clock_that_was_synchronised(set_by_us: int) -> None:
    known = seen(boot(last=0), 10 * S, WALL_US)
    later = ClockReading(WALL_US + set_by_us + 60 * S, BOOT_ID, 60 * S, True, 25_000, is_inherited=True)

    assert known.accepts(later) == (abs(set_by_us) <= S // 10)


def test_a_look_from_before_others_changes_nothing_that_is_known() -> None:
    known = seen(boot(last=0), 100 * S, WALL_US)

    assert seen(known, 50 * S, WALL_US + H) == known
    assert seen(known, 50 * S, 0, trusted=False) == known


def test_points_are_bounded_and_the_first_of_them_stays() -> None:
    known = boot(last=0)
    for hour in range(1, 200):
        known = seen(known, hour * H, WALL_US + hour * S)

    assert len(known.points) == 64
    assert known.points[0].boot_us == H
    assert known.points[-1].boot_us == 199 * H


def test_samples_of_a_server_do_not_push_out_what_the_own_clock_showed() -> None:
    known = seen(seen(boot(last=0), 1 * S, WALL_US), 10 * H, WALL_US)

    for hour in range(12, 200):
        known = known.with_server_sample(OffsetSample(hour * H, WALL_US + hour * S, S))

    assert len(known.points) == 64
    assert known.sure_points == (synchronised(1 * S, WALL_US), synchronised(10 * H, WALL_US))


def test_a_server_that_contradicts_an_earlier_answer_of_its_own_is_believed() -> None:
    known = boot().with_server_sample(OffsetSample(10 * S, WALL_US, 2 * S))

    later = known.with_server_sample(OffsetSample(20 * S, WALL_US + H, 2 * S))

    assert later.points == (OffsetSample(20 * S, WALL_US + H, 2 * S),)


def test_a_synchronised_clock_takes_the_servers_place() -> None:
    known = boot(last=0).with_server_sample(OffsetSample(10 * S, WALL_US + S, 2 * S))

    assert seen(known, 20 * S, WALL_US).points == (synchronised(20 * S, WALL_US),)


# --- several boots --------------------------------------------------------------------------


def test_without_a_hint_boots_share_the_time_between_two_clocks_evenly() -> None:
    first = boot(1, last=H, points=(synchronised(H, WALL_US),))
    last = boot(4, points=(synchronised(0, WALL_US + 10 * H),))

    found = timings([first, boot(2), boot(3), last])

    # Seven hours are free: between the end of the first at 1 and the fourth at 10 lie two boots of one.
    begins = [found[number].points[0].offset_us - WALL_US for number in (2, 3)]
    assert begins[0] == round((1 + 7 / 3) * H)
    assert abs(begins[1] - round((1 + 7 / 3 + 1 + 7 / 3) * H)) <= 1


def test_where_two_clocks_contradict_each_other_the_later_is_believed() -> None:
    first = boot(1, points=(synchronised(H, WALL_US + 100 * H),))
    last = boot(3, points=(synchronised(0, WALL_US),))

    found = timings([first, boot(2), last])[2].at(H)

    assert H + found.offset_us <= WALL_US + H * DRIFT


def test_how_far_a_clock_may_have_run_off_counts_for_the_boot_after() -> None:
    first = boot(1, last=101 * H, points=(synchronised(H, WALL_US),))

    assert earliest_next_us([first]) == WALL_US + 101 * H - 100 * H * DRIFT
    assert earliest_next_us([]) == -math.inf


@given(
    lasts=st.lists(st.integers(0, 100 * H), min_size=1, max_size=5),
    hints=st.lists(st.integers(-(10**15), 10**16), min_size=5, max_size=5),
    room=st.integers(0, 1_000 * H),
)
def test_boots_between_two_clocks_never_overlap_beyond_drift(
    lasts: list[int], hints: list[int], room: int
) -> None:
    boots = [boot(number, last=last, hint=hints[number - 1]) for number, last in enumerate(lasts, start=1)]
    before = boot(0, last=0, points=(synchronised(0, WALL_US),))
    after = boot(9, last=0, points=(synchronised(0, WALL_US + room + sum(lasts)),))

    found = timings([before, *boots, after])

    ends = WALL_US
    for one in boots:
        begins = found[one.number].points[0].offset_us
        assert begins >= ends - 1
        ends = begins + one.last_us
    assert ends <= WALL_US + room + sum(lasts) + len(boots)


def test_a_servers_clock_is_limited_by_the_boots_before_and_after() -> None:
    first = boot(1, last=S, points=(synchronised(S, WALL_US),))
    slow = boot(2, last=S, points=(OffsetSample(S // 2, WALL_US + 9 * S, 10 * S),))
    fast = boot(3, last=S, points=(OffsetSample(S // 2, WALL_US - 4 * S, 10 * S),))
    last = boot(4, points=(synchronised(0, WALL_US + 4 * S),))

    found = timings([first, slow, fast, last])

    # Two seconds are free between the end of the first and the begin of the last.
    assert abs(found[2].at(0).offset_us - (WALL_US + 2 * S)) <= 2_000
    assert abs(found[3].at(0).offset_us - (WALL_US + 3 * S)) <= 2_000
    assert found[2].at(0).bound_us <= S + 3_000
    assert found[3].at(0).bound_us <= 2 * S + 3_000
    assert not found[2].at(0).sure


@st.composite
def lives(draw: st.DrawFn) -> tuple[list[Boot], list[int], int]:
    """Boots of one machine, some with a server's sample, some synchronised.

    Also when each began in truth, and the maximum error of its clock while it was synchronised.
    """
    boots, begins, true_us = [], [], WALL_US
    own_error = draw(st.sampled_from((0, 20_000, 5 * S)))
    for number in range(1, draw(st.integers(2, 6)) + 1):
        true_us += draw(st.integers(0, 60 * S))
        last = draw(st.integers(S // 10, 100 * S))
        error = draw(st.integers(S, 30 * S))
        at = draw(st.integers(0, last))
        points = {
            "none": (),
            "server": (OffsetSample(at, true_us + draw(st.integers(-error, error)), error),),
            "synchronised": (
                synchronised(at, true_us + draw(st.integers(-own_error, own_error)), own_error),
            ),
        }[draw(st.sampled_from(("none", "server", "synchronised")))]
        boots.append(boot(number, last=last, points=points))
        begins.append(true_us)
        true_us += last
    return boots, begins, own_error


@settings(max_examples=500)
@given(lives())
def test_times_of_several_boots_are_in_order_and_within_their_bounds(
    life: tuple[list[Boot], list[int], int],
) -> None:
    boots, begins, own_error = life

    found = timings(boots)

    shown = -math.inf
    for one, true_us in zip(boots, begins, strict=True):
        begin, end = (found[one.number].at(boot_us) for boot_us in (0, one.last_us))
        assert abs(begin.offset_us - true_us) <= begin.bound_us + 2
        assert abs(end.offset_us - true_us) <= end.bound_us + 2
        assert begin.offset_us >= shown - _MOST_DRIFT_US - 2 * own_error
        shown = one.last_us + end.offset_us
