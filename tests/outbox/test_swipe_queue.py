from __future__ import annotations

from agent.outbox.swipe_queue import _UNTIL_NEXT_TRY_MAX, QUEUED_SWIPES_MAX, SwipeQueue
from agent.swipe import Swipe
from tests.support.swipes import in_threads, swipe

ALL = QUEUED_SWIPES_MAX + _UNTIL_NEXT_TRY_MAX
SWIPES = [swipe(value) for value in range(ALL + 50)]


def new_queue() -> SwipeQueue:
    return SwipeQueue(["RDR-101", "RDR-102"])


def put(queue: SwipeQueue, *swipes: Swipe) -> None:
    for one in swipes:
        queue.put(one)


def test_swipes_stay_in_order_until_they_are_removed() -> None:
    queue = new_queue()
    put(queue, *SWIPES[:5])

    assert queue.first(3) == SWIPES[:3] == queue.first(3)
    queue.remove_first(3, stored=True)

    assert queue.first(100) == SWIPES[3:5]
    assert queue.stored("RDR-101") == 3


def test_the_newest_swipes_over_the_bound_are_refused_after_a_failed_try() -> None:
    queue = new_queue()
    put(queue, *SWIPES[: QUEUED_SWIPES_MAX + 7])
    assert queue.take_refused("RDR-101") == []

    queue.refuse_excess()

    assert sorted(one.badge_id for one in queue.take_refused("RDR-101")) == [
        one.badge_id for one in SWIPES[QUEUED_SWIPES_MAX : QUEUED_SWIPES_MAX + 7]
    ]
    assert queue.take_refused("RDR-101") == []
    assert queue.first(ALL) == SWIPES[:QUEUED_SWIPES_MAX]
    assert queue.lost("RDR-101") == 7


def test_what_is_stored_before_a_try_fails_makes_room_for_the_newest() -> None:
    queue = new_queue()
    put(queue, *SWIPES[: QUEUED_SWIPES_MAX + 7])

    queue.remove_first(7, stored=True)
    queue.refuse_excess()

    assert queue.first(ALL) == SWIPES[7 : QUEUED_SWIPES_MAX + 7]
    assert queue.lost("RDR-101") == 0


def test_memory_is_bounded_also_while_a_try_takes_long() -> None:
    queue = new_queue()

    put(queue, *SWIPES)

    assert len(queue) == ALL
    assert queue.lost("RDR-101") == 50


def test_one_reader_that_is_over_its_bound_costs_another_nothing() -> None:
    queue = new_queue()
    other = [swipe(value, reader_id="RDR-102") for value in range(20)]
    for one, two in zip(SWIPES, other, strict=False):
        put(queue, one, two)
    put(queue, *SWIPES[20 : QUEUED_SWIPES_MAX + 5])

    queue.refuse_excess()

    kept = queue.first(2 * ALL)
    assert [one for one in kept if one.reader_id == "RDR-102"] == other
    assert [one for one in kept if one.reader_id == "RDR-101"] == SWIPES[:QUEUED_SWIPES_MAX]
    assert (queue.lost("RDR-101"), queue.lost("RDR-102")) == (5, 0)


def test_swipes_wait_only_while_the_outbox_takes_none() -> None:
    queue = new_queue()
    put(queue, *SWIPES[:2])

    assert queue.blocked("RDR-101") == 0


def test_eight_threads_put_and_one_takes_without_a_loss() -> None:
    queue = SwipeQueue([f"RDR-{number}" for number in range(8)])
    taken: list[Swipe] = []

    def read(number: int) -> None:
        for value in range(200):
            queue.put(swipe(value, reader_id=f"RDR-{number}"))

    def take() -> None:
        while len(taken) < 1600:
            news = queue.news
            swipes = queue.first(7)
            queue.remove_first(len(swipes), stored=True)
            taken.extend(swipes)
            if not swipes:
                queue.wait(news, None)

    in_threads(take, *(lambda number=number: read(number) for number in range(8)))

    for number in range(8):
        own = [one.badge_id for one in taken if one.reader_id == f"RDR-{number}"]
        assert own == [swipe(value).badge_id for value in range(200)]


def test_only_a_flooding_reader_is_cut_off_and_only_while_the_disk_is_short() -> None:
    queue = new_queue()
    asked = 0

    def is_short() -> bool:
        nonlocal asked
        asked += 1
        return True

    queue.set_disk_short(is_short)
    put(queue, swipe(1), swipe(2, reader_id="RDR-102"))
    queue.set_flooding("RDR-101", flooding=True)
    put(queue, swipe(3))
    queue.set_disk_short(is_short)
    news = queue.news
    put(queue, swipe(4))
    unchanged = queue.news == news
    put(queue, swipe(5, reader_id="RDR-102"))
    queue.set_disk_short(lambda: False)
    put(queue, swipe(6))
    queue.set_disk_short(is_short)
    queue.set_flooding("RDR-101", flooding=False)
    put(queue, swipe(7))

    assert [int(one.card.raw, 16) for one in queue.first(9)] == [1, 2, 3, 5, 6, 7]
    assert [int(one.card.raw, 16) for one in queue.take_refused("RDR-101")] == [4]
    assert (queue.flood_refused("RDR-101"), queue.lost("RDR-101"), queue.cut_off) == (1, 0, frozenset())
    assert unchanged  # the writer is not woken for nothing
    assert asked == 2  # only while a reader floods
