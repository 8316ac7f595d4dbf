from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.readers.events import raw_hex
from agent.readers.hold_off import HELD_CARDS_MAX, HoldOff
from agent.swipe import CardCheck, CardRead


def card(value: int, bits: int = 26) -> CardRead:
    return CardRead(bits, raw_hex(bits, value), CardCheck.PARITY)


def test_a_held_card_is_one_swipe() -> None:
    hold_off = HoldOff(1000)

    admitted = [hold_off.admits(card(1), now_ms) for now_ms in range(0, 5000, 65)]

    assert admitted == [True] + [False] * 76


def test_a_card_is_new_after_a_whole_hold_off_without_it() -> None:
    hold_off = HoldOff(1000)
    hold_off.admits(card(1), 0)
    hold_off.admits(card(1), 900)

    assert not hold_off.admits(card(1), 1899)
    assert hold_off.admits(card(1), 2899)


def test_another_card_always_passes() -> None:
    hold_off = HoldOff(1000)
    hold_off.admits(card(1), 0)

    assert hold_off.admits(card(2), 1)


def test_two_cards_read_in_turns_are_two_swipes() -> None:
    hold_off = HoldOff(1000)

    admitted = [hold_off.admits(card(1 + turn % 2), turn * 50) for turn in range(100)]

    assert admitted == [True, True] + [False] * 98


def test_the_same_number_in_another_length_is_another_card() -> None:
    hold_off = HoldOff(1000)
    hold_off.admits(card(1, bits=37), 0)

    assert hold_off.admits(card(1, bits=38), 1)


def test_a_swipe_that_could_not_be_kept_gets_another_chance() -> None:
    hold_off = HoldOff(1000)
    hold_off.admits(card(1), 0)

    hold_off.forget(card(1))
    hold_off.forget(card(2))

    assert hold_off.admits(card(1), 50)


def test_a_reopened_port_starts_without_held_cards() -> None:
    hold_off = HoldOff(1000)
    hold_off.admits(card(1), 0)
    hold_off.admits(card(1), 1)

    hold_off.reset()

    assert hold_off.admits(card(1), 2)


def test_no_hold_off_passes_every_read() -> None:
    hold_off = HoldOff(0)

    assert all(hold_off.admits(card(1), 0) for _ in range(3))


def test_memory_is_bounded_and_the_card_unseen_longest_goes_first() -> None:
    hold_off = HoldOff(1000)
    for value in range(HELD_CARDS_MAX):
        hold_off.admits(card(value), 0)
    hold_off.admits(card(0), 1)

    hold_off.admits(card(HELD_CARDS_MAX), 2)

    assert not hold_off.admits(card(0), 3)
    assert hold_off.admits(card(1), 3)
    assert len(hold_off._last_read) == HELD_CARDS_MAX


def test_cards_that_left_are_not_remembered() -> None:
    hold_off = HoldOff(1000)
    for value in range(100):
        hold_off.admits(card(value), value)

    hold_off.admits(card(1000), 5000)

    assert len(hold_off._last_read) == 1


@given(st.integers(1, 50), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60)), max_size=60))
def test_a_read_is_admitted_exactly_when_its_card_was_away_for_the_hold_off(
    hold_off_ms: int, reads: list[tuple[int, int]]
) -> None:
    hold_off = HoldOff(hold_off_ms)
    last_read_ms: dict[int, int] = {}
    now_ms = 0

    for value, step_ms in reads:
        now_ms += step_ms
        away = value not in last_read_ms or now_ms - last_read_ms[value] >= hold_off_ms
        last_read_ms[value] = now_ms

        assert hold_off.admits(card(value), now_ms) == away


def test_frames_that_waited_are_one_presentation_of_a_reader_that_repeats() -> None:
    hold_off = HoldOff(1000, repeats_while_held=True)
    hold_off.admits(card(1), 0)

    # It was suspended from 500 ms on and read again at 3500 ms.
    assert not hold_off.admits(card(1), 3500, age_ms=3000)
    assert not hold_off.admits(card(1), 3500, age_ms=3000)
    assert hold_off.admits(card(1), 5000)


def test_frames_that_waited_are_a_presentation_each_of_any_other_reader() -> None:
    hold_off = HoldOff(1000, repeats_while_held=False)
    hold_off.admits(card(1), 0)

    assert hold_off.admits(card(1), 3500, age_ms=3000)
    assert hold_off.admits(card(1), 3500, age_ms=3000)


def test_frames_that_surely_came_within_the_hold_off_are_repeats_of_any_reader() -> None:
    hold_off = HoldOff(1000, repeats_while_held=False)
    hold_off.admits(card(1), 0)

    assert not hold_off.admits(card(1), 600, age_ms=400)


def test_frames_that_waited_long_after_the_last_read_are_a_new_presentation() -> None:
    hold_off = HoldOff(1000, repeats_while_held=True)
    hold_off.admits(card(1), 0)

    assert hold_off.admits(card(1), 10_000, age_ms=8_000)


def test_a_card_of_the_previous_process_is_held_off_where_readers_repeat() -> None:
    repeating, other = HoldOff(1000, repeats_while_held=True), HoldOff(1000, repeats_while_held=False)
    for hold_off in (repeating, other):
        hold_off.seed(card(1).bits, card(1).raw, 100)

    assert not repeating.admits(card(1), 2500, age_ms=2000)
    assert other.admits(card(1), 2500, age_ms=2000)
    assert repeating.admits(card(2), 2500, age_ms=2000)


@given(
    reads=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 3000)), max_size=30),
    hold_off_ms=st.integers(0, 2000),
)
def test_with_a_reader_that_does_not_repeat_no_presentation_after_the_hold_off_is_dropped(
    reads: list[tuple[int, int]], hold_off_ms: int
) -> None:
    hold_off = HoldOff(hold_off_ms, repeats_while_held=False)
    now_ms = last_read_ms = 0
    for gap_ms, wait_ms in reads:
        # It arrived at any moment of the interval, at its beginning at the earliest.
        now_ms += gap_ms
        age_ms = min(wait_ms, gap_ms)
        admitted = hold_off.admits(card(1), now_ms, age_ms=age_ms)
        if now_ms - last_read_ms >= hold_off_ms:
            assert admitted
        last_read_ms = now_ms - age_ms
