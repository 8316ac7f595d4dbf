from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import (
    OutboxBusyError,
    OutboxError,
    OutboxFailingError,
    OutboxFullError,
    OutboxReadOnlyError,
)
from agent.log.message_ids import MessageId, fields_of
from agent.outbox import Outbox
from agent.outbox.swipe_queue import QUEUED_SWIPES_MAX, SwipeQueue
from agent.service.write_loop import SWIPES_PER_TRANSACTION, WriteLoop
from agent.swipe import Swipe
from tests.support.swipes import in_threads, swipe, wait_until

ERRORS = (
    *(OutboxFullError, OutboxBusyError, OutboxReadOnlyError, OutboxFailingError, OutboxError),
    MemoryError,
)
SWIPES = [swipe(value) for value in range(1, QUEUED_SWIPES_MAX + 200)]


class Disk:
    """An outbox that stores at most `room` swipes, then raises `error`."""

    def __init__(self, room: int = 10**9) -> None:
        self.stored: list[Swipe] = []
        self.calls: list[int] = []
        self.room = room
        self.is_short = False
        self.error: Exception = OutboxFullError("disk is full", hint="df -h")

    def keep(self, swipes: Sequence[Swipe]) -> None:
        self.calls.append(len(swipes))
        if len(self.stored) + len(swipes) > self.room:
            raise self.error
        self.stored += swipes

    def make_room(self) -> None:
        self.room = 10**9


class WriterRig:
    """A queue, its writer and a disk; step() is called by the test."""

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = disk or Disk()
        self.queue = SwipeQueue(["RDR-101"])
        self.loop = WriteLoop(
            self.queue,
            self.disk.keep,
            reader_ids=["RDR-101"],
            free_reserve=self.disk.make_room,
            is_disk_short=lambda: self.disk.is_short,
            changed=lambda: None,
        )

    def put(self, *swipes: Swipe) -> None:
        for one in swipes:
            self.queue.put(one)

    def step_until_done(self) -> float | None:
        """Step as the thread does, without its waits. Returns the wait of the last step."""
        while (delay := self.loop.step()) == 0.0:
            pass
        return delay


@contextmanager
def running(loop: WriteLoop) -> Iterator[threading.Thread]:
    thread = threading.Thread(target=loop.run, args=[lambda _: None])
    thread.start()
    try:
        yield thread
    finally:
        loop.stop(time.monotonic() + 10.0)
        thread.join(30.0)
        assert not thread.is_alive()


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_the_outbox_says_the_swipes_wait_and_are_stored_in_order(error: type[Exception]) -> None:
    rig = WriterRig(Disk(room=0))
    rig.disk.error = error("not now")

    rig.put(*SWIPES[:3])
    assert rig.step_until_done() == 1.0
    rig.put(*SWIPES[3:5])
    assert rig.step_until_done() == 1.0
    assert rig.queue.blocked("RDR-101") == 5

    rig.disk.make_room()
    assert rig.step_until_done() is None
    assert rig.disk.stored == SWIPES[:5]
    assert (rig.queue.blocked("RDR-101"), rig.queue.stored("RDR-101")) == (0, 5)


def test_all_that_wait_share_a_transaction_up_to_its_bound() -> None:
    rig = WriterRig()
    rig.put(*SWIPES[: SWIPES_PER_TRANSACTION + 3])

    rig.step_until_done()

    assert rig.disk.calls == [SWIPES_PER_TRANSACTION, 3]


def test_an_almost_full_disk_takes_as_many_as_fit() -> None:
    rig = WriterRig(Disk(room=77))
    rig.put(*SWIPES[:300])

    assert rig.step_until_done() == 1.0

    assert rig.disk.stored == SWIPES[:77]


def test_each_cause_is_one_line_and_so_is_the_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    rig = WriterRig(Disk(room=0))
    rig.disk.error = OutboxBusyError("outbox.db: database is locked", hint="sudo fuser -v outbox.db")
    rig.put(SWIPES[0])

    for error in (rig.disk.error, rig.disk.error, OutboxFullError("outbox.db: disk is full", hint="df -h")):
        rig.disk.error = error
        rig.step_until_done()
    rig.disk.make_room()
    rig.step_until_done()

    assert [record.getMessage() for record in caplog.records] == [
        "outbox: outbox.db: database is locked; sudo fuser -v outbox.db",
        "outbox: outbox.db: disk is full; df -h",
        "outbox: recovered after 1 failures",
    ]


def test_lost_swipes_are_one_line_with_their_number(caplog: pytest.LogCaptureFixture) -> None:
    rig = WriterRig(Disk(room=0))
    rig.put(*SWIPES[: QUEUED_SWIPES_MAX + 5])

    rig.step_until_done()

    (lost,) = [r for r in caplog.records if fields_of(r).get("MESSAGE_ID") == MessageId.SWIPES_LOST]
    assert "5 swipes were lost" in lost.getMessage()
    assert rig.queue.lost("RDR-101") == 5


def test_a_full_queue_takes_new_swipes_as_soon_as_there_is_room() -> None:
    rig = WriterRig(Disk(room=0))
    rig.put(*SWIPES[:QUEUED_SWIPES_MAX])
    with running(rig.loop):
        wait_until(lambda: rig.queue.problem is not None, what="a failed try")

        rig.disk.make_room()
        rig.put(*SWIPES[QUEUED_SWIPES_MAX : QUEUED_SWIPES_MAX + 20])

        wait_until(lambda: not rig.queue, what="an empty queue")
    assert rig.disk.stored == SWIPES[: QUEUED_SWIPES_MAX + 20]
    assert rig.queue.lost("RDR-101") == 0


def test_a_full_disk_is_tried_again_without_a_new_swipe() -> None:
    rig = WriterRig(Disk(room=0))
    rig.put(*SWIPES[:3])
    with running(rig.loop):
        wait_until(lambda: rig.queue.problem is not None, what="a failed try")

        rig.disk.make_room()

        wait_until(lambda: len(rig.disk.stored) == 3, what="stored swipes")


def test_a_stop_stores_what_waits_with_the_reserve() -> None:
    rig = WriterRig(Disk(room=0))
    rig.put(*SWIPES[:700])

    with running(rig.loop):
        wait_until(lambda: rig.queue.problem is not None, what="a failed try")

    assert rig.disk.stored == SWIPES[:700]


def test_a_stop_ends_at_its_deadline_and_leaves_what_finds_no_room() -> None:
    rig = WriterRig(Disk(room=0))
    rig.disk.make_room = lambda: None  # type: ignore[method-assign] # there is no reserve
    rig.loop._free_reserve = rig.disk.make_room
    rig.put(*SWIPES[:3])
    thread = threading.Thread(target=rig.loop.run, args=[lambda _: None])
    thread.start()

    rig.loop.stop(time.monotonic() + 0.3)

    thread.join(30.0)
    assert not thread.is_alive()
    assert len(rig.queue) == 3


def test_a_swipe_that_raises_a_bug_is_dropped_and_the_others_are_stored() -> None:
    rig = WriterRig()
    store = rig.disk.keep

    def keep(swipes: Sequence[Swipe]) -> None:
        if SWIPES[2] in swipes:
            raise ValueError("a bug")
        store(swipes)

    rig.loop._keep = keep
    rig.put(*SWIPES[:5])

    with pytest.raises(ValueError, match="a bug"):
        rig.step_until_done()
    rig.step_until_done()

    assert rig.disk.stored == [*SWIPES[:2], *SWIPES[3:5]]
    assert rig.queue.lost("RDR-101") == 1


_ACTIONS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 40)),
    st.tuples(st.just("step"), st.just(0)),
    st.tuples(st.just("lock"), st.just(0)),
    st.tuples(st.just("room"), st.integers(0, 30)),
    st.tuples(st.just("any"), st.just(0)),
    st.tuples(st.just("restart"), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(actions=st.lists(_ACTIONS, max_size=40))
def test_in_whatever_order_swipes_failures_and_stops_come_each_is_stored_once_and_in_order(
    actions: list[tuple[str, int]],
) -> None:
    rig = WriterRig()
    made = 0
    for action, number in actions:
        match action:
            case "put":
                rig.put(*(swipe(value) for value in range(made, made + number)))
                made += number
            case "step":
                rig.loop.step()
            case "lock":
                rig.disk.room, rig.disk.error = 0, OutboxBusyError("locked")
            case "room":
                rig.disk.room, rig.disk.error = len(rig.disk.stored) + number, OutboxFullError("full")
            case "any":
                rig.disk.make_room()
            case "restart":
                rig.loop.stop(time.monotonic() + 60.0)
                rig.loop.run(lambda _: None)  # free_reserve() makes room
                rig = WriterRig(rig.disk)
    rig.disk.make_room()
    rig.step_until_done()

    assert [one.badge_id for one in rig.disk.stored] == [swipe(value).badge_id for value in range(made)]


def test_readers_that_wait_during_a_flush_share_the_next_one(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, agent_id="door")) as outbox:
        queue = SwipeQueue([f"RDR-{number}" for number in range(8)])
        loop = WriteLoop(
            queue,
            lambda swipes: outbox.keep(*swipes),
            reader_ids=[],
            free_reserve=outbox.free_reserve,
            is_disk_short=lambda: False,
            changed=lambda: None,
        )
        before = outbox.file.flushes

        def read(number: int) -> None:
            for value in range(50):
                queue.put(swipe(value, reader_id=f"RDR-{number}"))

        with running(loop):
            in_threads(*(lambda number=number: read(number) for number in range(8)))
        assert outbox.last_seq == 400
        assert outbox.file.flushes - before < 200


def test_another_program_that_holds_the_file_for_long_costs_no_swipe_and_no_time_is_wrong(
    tmp_path: Path,
) -> None:
    with closing(Outbox(tmp_path, agent_id="door")) as outbox:
        queue = SwipeQueue(["RDR-101"])
        loop = WriteLoop(
            queue,
            lambda swipes: outbox.keep(*swipes),
            reader_ids=["RDR-101"],
            free_reserve=outbox.free_reserve,
            is_disk_short=lambda: False,
            changed=lambda: None,
        )
        with running(loop), closing(sqlite3.connect(tmp_path / "outbox.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            begin = time.monotonic()
            for value in range(100):
                queue.put(swipe(value))
            put_s = time.monotonic() - begin
            wait_until(lambda: queue.problem is not None, what="a failed try")
            other.rollback()
            wait_until(lambda: not queue, what="stored swipes")

        assert put_s < 1.0  # the file was locked for more than 5 s
        assert outbox.last_seq == 100


def test_the_swipes_of_a_flood_are_refused_while_the_disk_is_short_and_counted_in_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    rig = WriterRig()
    rig.queue.set_flooding("RDR-101", flooding=True)
    rig.disk.is_short = True

    rig.put(*SWIPES[:3])
    rig.step_until_done()
    rig.put(*SWIPES[3:9])
    rig.step_until_done()
    rig.disk.is_short = False
    rig.step_until_done()
    rig.put(*SWIPES[9:12])
    rig.step_until_done()

    assert rig.disk.stored == SWIPES[:3] + SWIPES[9:12]
    assert rig.queue.flood_refused("RDR-101") == 6
    begin, end = caplog.records
    assert fields_of(begin)["MESSAGE_ID"] == MessageId.SWIPES_LOST
    assert fields_of(end)["MESSAGE_ID"] == MessageId.DISK_HAS_ROOM
    assert "6 were refused" in end.getMessage()


def test_a_flood_on_a_short_disk_is_noticed_by_a_thread_that_has_nothing_to_store(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rig = WriterRig()

    with running(rig.loop):
        rig.queue.set_flooding("RDR-101", flooding=True)
        rig.disk.is_short = True
        wait_until(lambda: rig.queue.cut_off == {"RDR-101"}, what="a refused flood")
        rig.put(swipe(1))

    assert rig.disk.stored == []
    assert caplog.records[-1].getMessage().endswith("1 were refused")  # at the stop
