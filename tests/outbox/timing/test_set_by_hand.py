"""A clock set by hand where only the time service's file shows a correction: right times stay right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.clock_rig import MarkedClockRig
from tests.support.timing_rig import MS, TimingRig

HOUR_S = 3_600.0


@pytest.fixture
def machine() -> MarkedClockRig:
    return MarkedClockRig()


@pytest.fixture
def scene(tmp_path: Path, machine: MarkedClockRig) -> Iterator[TimingRig]:
    scene = TimingRig(tmp_path, machine)
    scene.machine.ntp_comes()
    scene.swipe(3)
    scene.machine.advance(1.5 * HOUR_S)
    yield scene
    scene.outbox.close()


@pytest.mark.parametrize("off_s", [HOUR_S, -HOUR_S, 60.0, -60.0])
@pytest.mark.parametrize("restarts", [0, 1])
def test_a_clock_set_by_hand_moves_no_swipe_that_was_right(
    scene: TimingRig, machine: MarkedClockRig, off_s: float, restarts: int
) -> None:
    scene.swipe(3)
    scene.machine.set_by_hand(off_s)
    for _ in range(restarts):
        scene.restart()
        machine.start_process()
        scene.look()
    scene.swipe(3)

    rows = scene.send()

    assert [row["clock"] for row in rows] == ["synced"] * 6 + ["corrected"] * 3
    assert scene.worst_us(rows) < MS


def test_a_clock_set_back_before_the_first_reading_of_a_process_is_not_confirmed_by_the_old_mark(
    tmp_path: Path, machine: MarkedClockRig
) -> None:
    scene = TimingRig(tmp_path, machine)
    machine.ntp_comes()
    scene.look()
    scene.swipe(every_s=0.5)
    machine.set_by_hand(-3.0)
    scene.restart()
    machine.start_process()
    scene.look()
    scene.swipe(every_s=40.0)

    rows = scene.send()
    scene.outbox.close()

    assert [row["clock"] for row in rows] == ["synced", "corrected"]
    assert scene.worst_us(rows) < MS


def test_the_next_mark_of_the_time_service_is_believed_whatever_it_changes(scene: TimingRig) -> None:
    scene.machine.set_by_hand(HOUR_S)
    scene.swipe(3)
    scene.machine.ntp_comes()
    scene.swipe(3)

    rows = scene.send()

    assert [row["clock"] for row in rows] == ["synced"] * 3 + ["corrected"] * 3 + ["synced"] * 3
    assert scene.worst_us(rows) < MS


# --- any course of marks, steps, drifts and restarts --------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.just("swipe"), st.sampled_from([0.5, 40.0, 3_000.0])),
    st.tuples(st.just("step"), st.floats(-8_000, 8_000)),
    st.tuples(st.sampled_from(["ntp comes", "ntp goes", "restart"]), st.just(0.0)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 900.0, 9_000.0])),
)


@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENTS, min_size=4, max_size=14), drift=st.floats(-400e-6, 400e-6))
def test_a_swipe_stamped_right_is_never_moved_by_more_than_its_stated_uncertainty(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, float]], drift: float
) -> None:
    machine = MarkedClockRig(drift=drift)
    scene = TimingRig(tmp_path_factory.mktemp("scene"), machine)
    right: set[int] = set()
    machine.ntp_comes()
    scene.look()
    for kind, amount in [*events, ("swipe", 1.0)]:
        if kind == "swipe":
            scene.swipe(every_s=amount)
            if abs(machine.now().wall_us - machine.true_us) < 1_000 * MS:
                right.add(len(scene.truth))
        else:
            _happen(scene, machine, kind, amount)
            scene.look()

    rows = scene.send()
    scene.outbox.close()

    assert len(rows) == len(scene.truth)
    for row in rows:
        if int(row["card_raw"], 16) in right:
            limit_ms = row.get("time_uncertainty_ms", 1_000) + 1_000
            assert abs(scene.error_us(row)) <= limit_ms * MS, row


def _happen(scene: TimingRig, machine: MarkedClockRig, kind: str, amount: float) -> None:
    match kind:
        case "step":
            machine.set_by_hand(amount)
        case "ntp comes":
            machine.ntp_comes()
        case "ntp goes":
            machine.ntp_goes()
        case "restart":
            scene.restart()
            machine.start_process()
        case "wait":
            machine.advance(amount)
