from __future__ import annotations

import logging

import pytest

from agent.errors import (
    OutboxBusyError,
    OutboxError,
    OutboxFailingError,
    OutboxFullError,
    OutboxReadOnlyError,
    OutboxUnavailableError,
)
from agent.readers.overflow_buffer import BUFFERED_SWIPES_MAX, OverflowBuffer
from agent.swipe import Swipe
from tests.support.swipes import swipe


class Disk:
    """An outbox that stores at most `room` swipes, or raises `error`."""

    def __init__(self, room: int = 10**9) -> None:
        self.stored: list[Swipe] = []
        self.room = room
        self.error: OutboxError = OutboxFullError("disk is full")
        self.calls = 0

    def keep(self, swipes: list[Swipe]) -> None:
        self.calls += 1
        if len(self.stored) + len(swipes) > self.room:
            raise self.error
        self.stored += swipes


SWIPES = [swipe(value) for value in range(1, BUFFERED_SWIPES_MAX + 100)]
ERRORS = (OutboxFullError, OutboxBusyError, OutboxReadOnlyError, OutboxFailingError)


@pytest.mark.parametrize("error", ERRORS)
def test_whatever_the_outbox_says_the_swipes_wait_and_are_stored_in_order(
    error: type[OutboxUnavailableError],
) -> None:
    disk = Disk(room=0)
    disk.error = error("not now")
    buffer = OverflowBuffer(disk.keep, "A")

    assert buffer.keep(SWIPES[:3]) == (0, [], disk.error)
    assert buffer.keep(SWIPES[3:4]) == (0, [], disk.error)
    disk.room = 10

    assert buffer.keep(SWIPES[4:5]) == (5, [], None)
    assert disk.stored == SWIPES[:5]


def test_a_full_buffer_takes_new_swipes_as_soon_as_there_is_room() -> None:
    disk = Disk(room=0)
    buffer = OverflowBuffer(disk.keep, "A")
    for one in SWIPES[:BUFFERED_SWIPES_MAX]:
        buffer.keep([one])
    disk.room = 10**9

    kept = buffer.keep(SWIPES[BUFFERED_SWIPES_MAX : BUFFERED_SWIPES_MAX + 1])

    assert kept == (BUFFERED_SWIPES_MAX + 1, [], None)
    assert disk.stored == SWIPES[: BUFFERED_SWIPES_MAX + 1]


def test_only_those_without_room_in_memory_are_refused() -> None:
    disk = Disk(room=0)
    buffer = OverflowBuffer(disk.keep, "A")
    buffer.keep(SWIPES[: BUFFERED_SWIPES_MAX - 1])

    stored, refused, error = buffer.keep(SWIPES[BUFFERED_SWIPES_MAX - 1 : BUFFERED_SWIPES_MAX + 2])

    assert (stored, error) == (0, disk.error)
    assert refused == SWIPES[BUFFERED_SWIPES_MAX : BUFFERED_SWIPES_MAX + 2]
    assert len(buffer) == BUFFERED_SWIPES_MAX


def test_a_try_on_a_full_disk_is_one_small_transaction() -> None:
    disk = Disk(room=0)
    buffer = OverflowBuffer(disk.keep, "A")
    buffer.keep(SWIPES[:500])
    disk.calls = 0

    buffer.keep(SWIPES[500:501])

    assert disk.calls == 1


def test_a_disk_with_little_room_is_filled_to_the_last_place() -> None:
    disk = Disk(room=0)
    buffer = OverflowBuffer(disk.keep, "A")
    buffer.keep(SWIPES[:100])
    disk.room = 77

    assert buffer.keep([]).stored == 77
    assert disk.stored == SWIPES[:77]


def test_any_other_failure_is_raised_and_the_new_swipes_are_the_callers() -> None:
    disk = Disk(room=0)
    buffer = OverflowBuffer(disk.keep, "A")
    buffer.keep(SWIPES[:2])
    disk.error = OutboxError("a bug")

    with pytest.raises(OutboxError, match="a bug"):
        buffer.keep(SWIPES[2:4])

    assert len(buffer) == 2


def test_each_cause_is_named_when_it_comes_and_not_at_every_swipe(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    disk = Disk(room=0)
    buffer = OverflowBuffer(disk.keep, "A")

    for error in (OutboxBusyError("locked", hint="fuser"), OutboxReadOnlyError("read-only", hint="mmc")):
        disk.error = error
        for one in SWIPES[:3]:
            buffer.keep([one])
    disk.room = 10
    buffer.keep([])

    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == "reader A: locked; fuser"
    assert messages[1] == "reader A: read-only; mmc"
    assert "recovered" in messages[2]
    assert len(messages) == 3
