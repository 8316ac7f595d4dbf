"""Log lines that become door events: changes only, a bounded number, and never in the way of a swipe."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest

from agent.door_event import DoorEvent
from agent.errors import OutboxFullError, OutboxReplacedError, PortError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.outbox.swipe_queue import SwipeQueue
from agent.service.event_log import EventLog
from agent.service.write_loop import WriteLoop
from agent.swipe import Swipe
from tests.support.events import event
from tests.support.swipes import DrivenClock, swipe


class Rig:
    """An EventLog on a logger of its own, on a clock that the test drives."""

    def __init__(self) -> None:
        self.clock = DrivenClock()
        self.woken = 0
        self.stored: list[DoorEvent] = []
        self.events = EventLog(self.clock.now, self.clock.monotonic_s, wake=self._wake)
        self.log = logging.getLogger("agent.tests.event_log")
        self.log.setLevel(logging.DEBUG)
        self.log.addHandler(self.events)
        self.faults = FailureLog(
            self.log, "reader R", self.clock.monotonic_s, recovery=MessageId.READER_BACK, reader="R"
        )

    def _wake(self) -> None:
        self.woken += 1

    def keep(self, events: Sequence[DoorEvent]) -> None:
        self.stored += events

    def kinds(self) -> list[str]:
        self.events.store(self.keep)
        return [one.kind for one in self.stored]

    def lose(self) -> None:
        self.faults.failed(PortError("gone", hint="plug it in"), MessageId.READER_LOST)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.log.removeHandler(rig.events)


def test_an_alarm_is_one_event_until_its_end_however_often_it_is_logged(rig: Rig) -> None:
    for _ in range(100):
        rig.lose()
        rig.clock.advance(60)
    rig.faults.recovered()
    rig.lose()

    assert rig.kinds() == ["reader_lost", "reader_back", "reader_lost"]
    first = rig.stored[0]
    assert (first.severity, first.message) == ("warning", "reader R: gone; plug it in")
    assert (first.reader_id, first.details) == ("R", {"error_code": "PortError"})
    assert first.read_at.boot_us == 1_000_000_000


def test_the_alarm_of_one_reader_does_not_hide_that_of_another(rig: Rig) -> None:
    for reader in ("A", "B", "A"):
        rig.log.warning("lost", extra=fields(MessageId.READER_LOST, reader=reader))
    rig.log.info("back", extra=fields(MessageId.READER_BACK, reader="A"))
    rig.log.warning("lost", extra=fields(MessageId.READER_LOST, reader="B"))

    assert rig.kinds() == ["reader_lost", "reader_lost", "reader_back"]


def test_an_alarm_that_comes_and_goes_is_a_bounded_number_of_events(rig: Rig) -> None:
    for _ in range(3 * 3600):
        rig.lose()
        rig.faults.recovered()
        rig.clock.advance(1)
        rig.events.release_due()

    kinds = rig.kinds()
    assert len(kinds) <= 3 * 2 * 7
    assert kinds[-1] == "reader_back"
    assert "more lines like this were dropped" in rig.stored[-1].message


def test_other_lines_are_no_events(rig: Rig) -> None:
    rig.log.error("without an id")
    rig.log.info("ready", extra=fields(MessageId.READY))
    rig.log.warning("door events: 404", extra=fields(MessageId.DOOR_EVENTS_HELD))
    rig.log.debug("fine", extra=fields(MessageId.READER_BACK))

    assert rig.kinds() == []
    assert rig.woken == 0


def test_without_room_in_memory_events_are_counted_in_the_next_one(rig: Rig) -> None:
    for number in range(250):
        rig.events.add(event(number))
    rig.events.store(rig.keep)
    rig.events.add(event(999))
    rig.events.store(rig.keep)

    assert len(rig.stored) == 201
    assert rig.stored[-1].details == {"n": 999, "events_dropped_before": 50}


def test_what_cannot_be_stored_waits_and_is_tried_once_a_minute(rig: Rig) -> None:
    tries = 0

    def full(_events: Sequence[DoorEvent]) -> None:
        nonlocal tries
        tries += 1
        raise OutboxFullError("full", hint="df -h")

    rig.events.add(event(1))
    assert rig.events.store(full) == 60.0
    for _ in range(59):
        rig.clock.advance(1)
        assert rig.events.store(full) is not None
    assert tries == 1

    rig.clock.advance(1)
    assert rig.events.store(rig.keep) is None
    assert len(rig.stored) == 1


def test_after_a_damaged_file_was_replaced_it_is_tried_soon(rig: Rig) -> None:
    def replaced(_events: Sequence[DoorEvent]) -> None:
        raise OutboxReplacedError("damaged", hint="")

    rig.events.add(event(1))

    assert rig.events.store(replaced) == 1.0
    assert rig.events.store(rig.keep) is None
    assert len(rig.stored) == 1


def test_an_event_that_cannot_be_stored_because_of_a_bug_is_given_up(rig: Rig) -> None:
    def bug(_events: Sequence[DoorEvent]) -> None:
        raise TypeError("a bug")

    rig.events.add(event(1))
    with pytest.raises(TypeError):
        rig.events.store(bug)

    assert rig.events.store(bug) is None


def test_swipes_are_stored_before_events_and_also_while_events_cannot_be(rig: Rig) -> None:
    order: list[str] = []

    def keep(swipes: Sequence[Swipe]) -> None:
        order.extend("swipe" for _ in swipes)

    def full(_events: Sequence[DoorEvent]) -> None:
        order.append("event")
        raise OutboxFullError("full", hint="df -h")

    queue = SwipeQueue(["RDR-101"])
    loop = WriteLoop(
        queue,
        keep,
        reader_ids=["RDR-101"],
        free_reserve=lambda: None,
        is_disk_short=lambda: False,
        changed=lambda: None,
        store_events=lambda: rig.events.store(full),
    )
    rig.events.add(event(1))
    queue.put(swipe(1))
    queue.put(swipe(2))

    assert loop.step() == 60.0
    queue.put(swipe(3))
    assert loop.step() == 60.0

    assert order == ["swipe", "swipe", "event", "swipe"]
