"""Door events and heartbeats through the uploader: once, after live swipes, and never in their way."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.keys.keypair import KeyPair
from agent.log.message_ids import MessageId, fields_of
from agent.outbox import event_store
from tests.support.events import event, follow_each_other, stored_events
from tests.support.outbox_rig import looked_up
from tests.support.pipe_model import Fault, Invalidate, Lose, Refuse, Unreachable
from tests.support.uploader_rig import UploaderRig


class Beats:
    """Heartbeats every hour on the clock of the rig; a row says how many were made."""

    def __init__(self) -> None:
        self.door: UploaderRig | None = None
        self.made = 0
        self.next_at = 0.0

    def due_in_s(self) -> float:
        return 0.0 if self.door is None else max(0.0, self.next_at - self.door.clock.seconds)

    def make(self) -> bytes:
        self.made += 1
        return json.dumps({"kind": "heartbeat", "made": self.made}).encode()

    def sent(self) -> None:
        assert self.door is not None
        self.next_at = self.door.clock.seconds + 3600.0


@pytest.fixture
def door(tmp_path: Path, key: KeyPair) -> Iterator[UploaderRig]:
    (tmp_path / "state").mkdir()
    door = UploaderRig(tmp_path / "state", key, events_pipe="EVENTS")
    yield door
    door.close()


@pytest.fixture
def beating(tmp_path: Path, key: KeyPair) -> Iterator[UploaderRig]:
    """A door with heartbeats."""
    (tmp_path / "state").mkdir()
    beats = Beats()
    beats.door = door = UploaderRig(tmp_path / "state", key, events_pipe="EVENTS", heartbeats=beats)
    yield door
    door.close()


def happen(door: UploaderRig, *numbers: int) -> None:
    door.outbox.door_events.keep([event(number, read_at=door.clock.now()) for number in numbers])


def channel_of(door: UploaderRig) -> str:
    return f"EVENTS:door-{door.outbox.outbox_id}-events"


def landed(door: UploaderRig) -> list[dict[str, Any]]:
    return [row for channel, row in door.pipe.landed if channel.endswith("-events")]


def messages(door: UploaderRig) -> list[str]:
    return [row.get("message", row["kind"]) for row in landed(door)]


def swipes(door: UploaderRig) -> list[int]:
    return [row["seq"] for channel, row in door.pipe.landed if not channel.endswith("-events")]


def test_events_arrive_once_in_order_and_as_a_chain(door: UploaderRig) -> None:
    door.keep(2)
    happen(door, 1, 2)
    door.drain()
    happen(door, 3)
    door.drain()

    rows = landed(door)
    assert messages(door) == ["event 1", "event 2", "event 3"]
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert rows[0]["chain_before"] == door.outbox.outbox_id
    assert follow_each_other(rows, door.outbox.outbox_id)
    assert {channel for channel, row in door.pipe.landed if "kind" in row} == {channel_of(door)}
    assert door.pipe.channels[channel_of(door)].committed == f"3-{rows[2]['chain']}"
    assert rows[0] | {"kind": 0} == {
        "event_id": stored_events(door.state_dir)[0]["event_id"],
        "agent_id": "door",
        "kind": 0,
        "at": "2026-03-01T12:16:40.000000Z",
        "clock": "synced",
        "severity": "warning",
        "reader_id": "RDR-101",
        "message": "event 1",
        "details": {"n": 1},
        "chain": rows[0]["chain"],
        "outbox_id": door.outbox.outbox_id,
        "seq": 1,
        "chain_before": door.outbox.outbox_id,
    }


_FAULTS: tuple[Fault, ...] = (
    Lose(processed=True),
    Lose(processed=False),
    Invalidate(),
    Refuse(503),
    Refuse(429),
    Unreachable(),
)


def test_every_fault_at_every_request_leaves_each_event_once(door: UploaderRig) -> None:
    door.drain()
    sent = 0
    for fault, nth in itertools.product(_FAULTS, range(4)):
        happen(door, sent + 1, sent + 2)
        sent += 2
        door.pipe.faults.extend([*_answered(nth), fault])
        door.drain()

    assert messages(door) == [f"event {number}" for number in range(1, sent + 1)]


def _answered(count: int) -> list[Any]:
    """So many requests that are answered: no fault happens to them."""
    return [None] * count


def test_a_crash_after_each_step_leaves_each_event_once(door: UploaderRig) -> None:
    sent = 0
    for _ in range(12):
        sent += 1
        happen(door, sent)
        for _ in range(sent):
            door.clock.advance(door.uploader.step() or 0.1)
        door.crash()
    door.drain()

    assert messages(door) == [f"event {number}" for number in range(1, sent + 1)]


def test_a_new_outbox_id_continues_the_chain_in_a_channel_of_its_own(door: UploaderRig) -> None:
    door.keep(1)
    happen(door, 1, 2)
    door.drain()
    first = door.outbox.outbox_id

    door.outbox.request_generation("a test wants it")
    happen(door, 3)
    door.drain()

    rows = landed(door)
    assert messages(door) == ["event 1", "event 2", "event 3"]
    assert door.outbox.outbox_id != first
    assert (rows[2]["outbox_id"], rows[2]["seq"]) == (door.outbox.outbox_id, 1)
    assert rows[2]["chain_before"] == rows[1]["chain"]
    assert follow_each_other(rows, first)


def test_events_that_another_channel_has_committed_are_not_sent_again(door: UploaderRig) -> None:
    door.keep(1)
    door.drain()
    happen(door, 1, 2)
    while not door.pipe.channels.get(channel_of(door)) or not door.pipe.channels[channel_of(door)].buffered:
        door.clock.advance(door.uploader.step() or 0.0)
    door.clock.advance(1.0)

    door.restart(agent_id="renamed")
    door.drain()

    assert messages(door) == ["event 1", "event 2"]


def test_events_wait_until_live_swipes_are_sent(door: UploaderRig) -> None:
    door.drain()
    happen(door, 1)
    door.keep(20)
    door.drain()

    appends = [seen.channel for seen in door.pipe.of("append")]
    assert appends == [f"door-{door.outbox.outbox_id}", channel_of(door)]


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_pipe_that_takes_no_events_stops_no_swipe(
    door: UploaderRig, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    refused = Refuse(status, "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED")
    original = door.pipe._answer

    def answer(request: Any) -> Any:  # noqa: ANN401 - as the model has it
        if "/pipes/EVENTS" in request.path and is_refusing:
            door.pipe.faults.appendleft(refused)
        return original(request)

    is_refusing = True
    door.pipe._answer = answer  # type: ignore[method-assign]
    happen(door, 1)
    for _ in range(10):
        door.keep(1)
        door.run(60)

    before = len(door.pipe.seen)
    door.run(86_400)
    assert swipes(door) == list(range(1, 11))
    assert len(door.pipe.seen) - before < 600
    assert door.uploader.status().reason is None
    assert door.uploader.status().events_problem is not None
    lines = [record for record in caplog.records if "door events: " in record.getMessage()]
    assert {fields_of(record)["MESSAGE_ID"] for record in lines} == {MessageId.DOOR_EVENTS_HELD}

    is_refusing = False
    door.uploader.retry_now()
    door.drain()

    assert messages(door) == ["event 1"]
    assert door.uploader.status().events_problem is None


def test_an_event_that_is_refused_on_its_own_is_passed_over(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    door.pipe.refuses = lambda row: row.get("message") == "event 2"
    happen(door, 1, 2, 3, 4)
    door.keep(3)

    door.run(3 * 86_400)

    assert messages(door) == ["event 1", "event 3", "event 4"]
    assert swipes(door) == [1, 2, 3]
    assert "a row was set aside" in caplog.text
    assert "badge-agent outbox list" not in caplog.text
    door.crash()
    door.drain()
    assert messages(door) == ["event 1", "event 3", "event 4"]


def test_while_snowflake_cannot_be_reached_events_ask_no_more_than_swipes_do(door: UploaderRig) -> None:
    door.keep(1)
    happen(door, 1)
    door.pipe.faults.extend([Unreachable()] * 1000)

    door.run(1800)
    asked = {seen.channel for seen in door.pipe.of("open", "append", "status")}
    door.pipe.faults.clear()
    door.drain()

    assert asked == {f"door-{door.outbox.outbox_id}"}
    assert messages(door) == ["event 1"]


def test_the_time_of_an_event_is_corrected_when_the_clock_is_set(tmp_path: Path, key: KeyPair) -> None:
    (tmp_path / "state").mkdir()
    door = UploaderRig(tmp_path / "state", key, events_pipe="EVENTS", wall_off_s=-5000.0)
    happen(door, 1)
    at = door.clock.seconds
    door.run(30)
    door.clock.wall_off_s, door.clock.trusted = 0.0, True
    door.drain()

    (row,) = landed(door)
    assert row["at"] == "2026-03-01T12:16:40.000000Z"
    assert at == 1000.0
    assert (row["clock"], row["recorded_at"]) == ("corrected", "2026-03-01T10:53:20.000000Z")
    assert follow_each_other([row], door.outbox.outbox_id)
    door.close()


def test_events_without_a_time_hold_back_those_after_them(tmp_path: Path, key: KeyPair) -> None:
    (tmp_path / "state").mkdir()
    door = UploaderRig(tmp_path / "state", key, events_pipe="EVENTS", wall_off_s=-5000.0)
    happen(door, 1)
    with door.outbox.writing() as connection:  # as a command does whose boot the agent has not stored yet
        event_store.append(connection, [(event(2, actor="anna"), None)], agent_id="door")
    door.run(60)

    assert messages(door) == []

    door.clock.wall_off_s, door.clock.trusted = 0.0, True
    door.drain()
    assert messages(door) == ["event 1", "event 2"]
    door.close()


def test_an_idle_door_without_heartbeats_sends_no_request(door: UploaderRig) -> None:
    happen(door, 1)
    door.drain()
    before = len(door.pipe.seen)

    for _ in range(24):
        door.clock.advance(3600.0)
        assert door.uploader.step() is None

    assert len(door.pipe.seen) == before


def test_heartbeats_are_sent_once_an_hour_and_write_nothing(beating: UploaderRig) -> None:
    beating.keep(1)
    happen(beating, 1)
    beating.run(60)
    flushes = beating.outbox.file.flushes
    stored = looked_up(beating.state_dir, "SELECT * FROM door_events_state")
    first = len(beating.pipe.seen)

    beating.run(86_400)

    assert [row["kind"] for row in landed(beating)] == ["reader_lost", *["heartbeat"] * 25]
    assert [row["made"] for row in landed(beating)[1:]] == list(range(1, 26))
    assert looked_up(beating.state_dir, "SELECT * FROM door_events_state") == stored
    assert beating.outbox.file.flushes - flushes <= 24  # of the clock's observations
    assert len(beating.pipe.seen) - first <= 25 * 4
    assert beating.pipe.channels[channel_of(beating)].committed == f"1.25-{landed(beating)[0]['chain']}"


def test_a_heartbeat_lost_on_its_way_is_made_again_and_no_event_is_doubled(beating: UploaderRig) -> None:
    beating.run(60)
    sent = 0
    for fault, nth in itertools.product(_FAULTS[:4], range(3)):
        sent += 1
        happen(beating, sent)
        beating.clock.advance(3600.0)
        beating.pipe.faults.extend([*_answered(nth), fault])
        beating.run(600)
        if nth == 0:
            beating.crash()

    assert messages(beating) == [
        "heartbeat",
        *itertools.chain.from_iterable([f"event {n}", "heartbeat"] for n in range(1, sent + 1)),
    ]


def test_a_heartbeat_that_is_lost_is_made_again_after_an_event_that_came_meanwhile(
    beating: UploaderRig,
) -> None:
    beating.run(60)
    beating.clock.advance(3600.0)
    beating.pipe.is_stalled = True
    beating.run(30)
    happen(beating, 1)
    beating.crash()
    beating.pipe.channels[channel_of(beating)].buffered.clear()
    beating.pipe.is_stalled = False
    beating.run(600)

    assert messages(beating) == ["heartbeat", "event 1", "heartbeat"]


def test_a_heartbeat_that_is_refused_is_given_up_for_the_next_event(beating: UploaderRig) -> None:
    beating.pipe.refuses = lambda row: row.get("kind") == "heartbeat"
    beating.keep(2)
    beating.run(7200)
    happen(beating, 1)
    beating.run(3 * 86_400)

    assert messages(beating) == ["event 1"]
    assert swipes(beating) == [1, 2]
