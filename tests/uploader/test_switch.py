"""Changes of channel: what was sent through the old one arrives once, whatever the reason for the change."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import (
    OutboxCorruptError,
    OutboxFullError,
    OutcomeUnknownError,
    SnowpipeError,
    UnreachableError,
)
from agent.keys.keypair import KeyPair
from agent.outbox import LiveRows
from agent.snowpipe import wire
from agent.snowpipe.refusal import refusal
from agent.snowpipe.wire import PipeName
from agent.uploader.channel_switch import ChannelSwitch, switch_delay_s
from tests.support.outbox_rig import recover
from tests.support.pipe_model import Lose, Refuse, Unreachable
from tests.support.uploader_rig import UploaderRig


def values(door: UploaderRig) -> list[int]:
    """The cards in the table, in order."""
    return [int(row["card_raw"], 16) for _, row in door.pipe.landed]


def in_flight(door: UploaderRig, committed: int, uncommitted: int, unsent: int) -> None:
    """Some rows are committed without the agent knowing it, others in the server's buffer, others unsent."""
    door.run()
    for count in (committed, uncommitted):
        door.keep(count)
        door.run(0.02)
    door.keep(unsent)
    buffered = door.pipe.channels[door.uploader.status().channel].buffered
    assert len(buffered) == 2
    buffered[0].due = 0.0
    door.pipe.commit_what_is_due()
    door.pipe.is_stalled = True
    assert len(door.pipe.landed) == committed
    assert door.outbox.committed_seq == 0


def resume(door: UploaderRig) -> None:
    door.pipe.is_stalled = False
    door.drain()


def assert_whole(door: UploaderRig) -> None:
    """Every row once and in order; within each outbox id from seq 1 on without a hole."""
    assert values(door) == list(range(1, door.kept + 1))
    histories: dict[str, list[int]] = {}
    for _, row in door.pipe.landed:
        histories.setdefault(row["outbox_id"], []).append(row["seq"])
    for seqs in histories.values():
        assert seqs == list(range(1, len(seqs) + 1))


def renamed(door: UploaderRig) -> None:
    door.restart(agent_id="back-door")


def another_pipe(door: UploaderRig) -> None:
    door.restart(pipe="OTHER_PIPE")


def moved(door: UploaderRig) -> None:
    door.restart(machine_id="2" * 16)


def rebuilt(door: UploaderRig) -> None:
    fault = OutboxCorruptError("outbox.db: database disk image is malformed")
    door.outbox._file.rebuild(fault, door.outbox.outbox_id)


def rebuilt_and_renamed(door: UploaderRig) -> None:
    rebuilt(door)
    renamed(door)


def new_generation(door: UploaderRig) -> None:
    door.outbox.start_generation("a test wants it")


CHANGES = (renamed, another_pipe, moved, rebuilt, rebuilt_and_renamed, new_generation)
Change = Callable[[UploaderRig], None]


@pytest.fixture
def slow_door(tmp_path: Path, key: KeyPair) -> UploaderRig:
    (state_dir := tmp_path / "state").mkdir()
    return UploaderRig(state_dir, key, lag_s=1.0, machine_id="1" * 16)


# --- nothing twice, nothing lost ------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
def test_rows_on_their_way_at_a_change_of_channel_arrive_once(slow_door: UploaderRig, change: Change) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    old = door.uploader.status().channel

    change(door)
    resume(door)
    door.keep(4)
    door.drain()

    assert_whole(door)
    assert door.uploader.status().channel != old
    assert {row["outbox_id"] for channel, row in door.pipe.landed if channel == old} == {
        old.rpartition("-")[2]
    }
    door.close()


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_channel_goes_on_after_a_crash_at_any_step(
    slow_door: UploaderRig, change: Change
) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    change(door)
    door.pipe.is_stalled = False

    for _ in range(8):
        door.uploader.step()
        door.clock.advance(0.01)
        door.crash()
    door.drain()

    assert_whole(door)
    door.close()


@pytest.mark.parametrize("fault", [Unreachable(), Refuse(503), Refuse(401), Lose(processed=True)])
def test_the_old_channel_is_asked_again_until_it_answers(
    slow_door: UploaderRig, fault: Unreachable | Refuse | Lose
) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    renamed(door)
    door.pipe.faults += [fault] * 8

    door.keep(2)  # stored meanwhile
    resume(door)

    assert_whole(door)
    door.close()


def test_rows_are_stored_and_nothing_is_sent_while_the_old_channel_cannot_be_asked(
    slow_door: UploaderRig,
) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    old_id = door.outbox.outbox_id
    renamed(door)
    door.pipe.faults += [Unreachable()] * 10_000

    door.run(90_000)
    door.keep(3)
    before = (door.outbox.outbox_id, len(door.pipe.landed))
    door.pipe.faults.clear()
    resume(door)

    assert before == (old_id, 5)
    assert_whole(door)
    door.close()


def test_rows_committed_through_the_old_channel_return_to_its_generation_after_its_rows_were_purged(
    slow_door: UploaderRig,
) -> None:
    door = slow_door
    door.keep(3)
    door.drain()
    door.outbox.purge(kept_since_us=None, max_bytes=0)
    door.keep(2)
    door.run(0.02)
    door.keep(3)
    rebuilt(door)
    recover(door.outbox)
    door.crash()  # a start forgets generations of which no row is left
    (channel,) = door.pipe.channels.values()
    channel.buffered[0].due = 0.0

    door.drain()

    assert_whole(door)
    door.close()


def test_the_old_name_is_fenced(slow_door: UploaderRig) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    old = door.pipe.channels[door.uploader.status().channel]
    renamed(door)

    resume(door)

    assert old.writer == 2
    assert old.buffered == []
    door.close()


def test_an_agent_renamed_back_before_it_was_online_goes_on_where_it_was(slow_door: UploaderRig) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    old_id = door.outbox.outbox_id

    renamed(door)
    door.restart(agent_id="door")
    resume(door)

    assert_whole(door)
    assert door.outbox.outbox_id == old_id
    door.close()


def test_a_replay_on_its_way_at_a_change_of_channel_arrives_once(slow_door: UploaderRig) -> None:
    door = slow_door
    door.keep(9)
    door.drain()
    door.replay(first_seq=2, last_seq=8)
    while not door.pipe.channels.get(f"door-{door.outbox.outbox_id}-replay"):
        door.clock.advance(max(door.uploader.step() or 0.0, 1e-6))
    door.run(0.05)
    door.clock.advance(door.pipe.lag_s)
    door.pipe.commit_what_is_due()
    assert door.pipe.replayed == [2, 3, 4, 5, 6, 7, 8]

    renamed(door)
    door.drain()

    assert door.pipe.replayed == [2, 3, 4, 5, 6, 7, 8]
    door.close()


def test_replayed_rows_have_the_position_with_which_they_were_first_sent(slow_door: UploaderRig) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    rebuilt(door)
    resume(door)
    sent = {row["event_id"]: (row["outbox_id"], row["seq"]) for _, row in door.pipe.landed}

    n = door.outbox.state.committed_n
    door.outbox.replay_again(1, n)
    door.drain()

    again = [row for _, row in door.pipe.landed if row.get("replay")]
    assert len(again) == 10
    assert all(sent[row["event_id"]] == (row["outbox_id"], row["seq"]) for row in again)
    door.close()


@pytest.mark.parametrize("change", [another_pipe, renamed])
def test_rows_that_take_minutes_to_be_committed_arrive_once_at_a_change(
    slow_door: UploaderRig, change: Change, caplog: pytest.LogCaptureFixture
) -> None:
    door = slow_door
    door.pipe.lag_s = 700.0
    in_flight(door, 5, 3, 2)
    door.pipe.lag_s = 1.0

    change(door)
    resume(door)

    assert_whole(door)
    assert "is given up" not in caplog.text
    door.close()


# --- an old channel that cannot be asked ------------------------------------------------------------


@pytest.mark.parametrize(("change", "patience_s"), [(another_pipe, 60), (renamed, 3600), (rebuilt, 3600)])
def test_an_old_channel_that_is_refused_is_given_up_after_a_while(
    slow_door: UploaderRig, change: Change, patience_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    door.pipe.refused_channels.add(door.uploader.status().channel)
    change(door)

    door.run(patience_s - 1)
    before = len(door.pipe.landed)
    resume(door)

    assert before == 5
    # What it had committed, and could not report, is there twice, with the same event_id.
    assert values(door) == [*range(1, 9), *range(1, 11)]
    assert len({row["event_id"] for _, row in door.pipe.landed}) == 10
    assert "is given up" in caplog.text
    door.close()


_OLD = PipeName("DB", "SCHEMA", "PIPE")
_OPEN, _TOKEN, _HOST = wire.open_channel(_OLD, "door", None), wire.scoped_token("host", None), wire.hostname()
_PAGE = b"<html>log in to the guest network</html>"
_DAY_S = 86_400


@pytest.mark.parametrize(
    ("request_", "status", "body", "other_pipe_s", "same_pipe_s"),
    [
        # Snowflake refuses the channel.
        (_OPEN, 404, b'{"code": "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED"}', 60, 3600),
        (_OPEN, 403, b'{"code": "", "message": "insufficient privileges"}', 60, 3600),
        (_OPEN, 400, b'{"code": "ERR_MALFORMED_REQUEST"}', 60, 3600),
        (_OPEN, 401, b'{"code": "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED"}', 60, 3600),
        (_OPEN, 403, b'{"code": "390403"}', 60, 3600),
        # It says that this passes, or the answer is that of a device in between.
        (_OPEN, 503, b'{"code": "", "message": "busy"}', _DAY_S, _DAY_S),
        (_OPEN, 429, b'{"code": "390701"}', _DAY_S, _DAY_S),
        (_OPEN, 409, b'{"code": "ERR_CHANNEL_HAS_UNCOMMITTED_DATA"}', _DAY_S, _DAY_S),
        (_OPEN, 410, b"", _DAY_S, _DAY_S),
        (_OPEN, 404, b"", _DAY_S, _DAY_S),
        (_OPEN, 404, _PAGE, _DAY_S, _DAY_S),
        (_OPEN, 302, _PAGE, _DAY_S, _DAY_S),
        # Every channel has the same failure.
        (_OPEN, 401, b'{"code": "390318"}', None, None),
        (_OPEN, 403, b'{"code": "390422"}', None, None),
        (_TOKEN, 422, b"", None, None),
        (_TOKEN, 400, b'{"code": "394302"}', None, None),
        (_TOKEN, 404, _PAGE, None, None),
        (_TOKEN, 410, b"", None, None),
        (_HOST, 403, b'{"code": "", "message": "no"}', None, None),
        (_HOST, 503, b"", None, None),
    ],
)
def test_only_answers_that_are_about_the_channel_use_up_the_patience(
    slow_door: UploaderRig,
    request_: wire.Request,
    status: int,
    body: bytes,
    other_pipe_s: int | None,
    same_pipe_s: int | None,
) -> None:
    slow_door.run()
    error = refusal(request_, wire.Reply(status, {}, body))

    assert _exhausted_s(slow_door, error, "OTHER_PIPE") == other_pipe_s
    assert _exhausted_s(slow_door, error, "PIPE") == same_pipe_s
    slow_door.close()


def _exhausted_s(door: UploaderRig, error: SnowpipeError, pipe: str) -> int | None:
    """After how long the old channel is given up if it fails in this way every half minute."""
    door.outbox.pipe = pipe
    switching = ChannelSwitch(LiveRows(door.outbox), time.monotonic)
    return next((at for at in range(0, 200_000, 30) if switching.gives_up(error, float(at))), None)


@pytest.mark.parametrize("body", [_PAGE, b'{"error": "log in"}', b""])
@pytest.mark.parametrize("parse", [wire.parse_hostname, wire.parse_scoped_token])
def test_a_page_in_place_of_a_sign_in_does_not_use_up_the_patience(
    slow_door: UploaderRig, parse: Callable[[wire.Reply], str], body: bytes
) -> None:
    slow_door.run()

    with pytest.raises(SnowpipeError) as raised:
        parse(wire.Reply(200, {}, body))

    assert _exhausted_s(slow_door, raised.value, "OTHER_PIPE") is None
    slow_door.close()


@pytest.mark.parametrize(("status", "code"), [(404, "ERR_PIPE_DOES_NOT_EXIST"), (503, "")])
def test_time_in_which_nothing_answered_does_not_use_up_the_patience(
    slow_door: UploaderRig, status: int, code: str
) -> None:
    slow_door.run()
    slow_door.outbox.pipe = "OTHER_PIPE"
    switching = ChannelSwitch(LiveRows(slow_door.outbox), time.monotonic)
    answer = refusal(_OPEN, wire.Reply(status, {}, b'{"code": "%s"}' % code.encode()))

    for hour in range(100):
        assert not switching.gives_up(answer, hour * 3600.0)
        assert not switching.gives_up(UnreachableError("no route"), hour * 3600.0 + 1)
    slow_door.close()


def test_a_connection_that_fails_does_not_use_up_the_patience(slow_door: UploaderRig) -> None:
    slow_door.run()

    assert _exhausted_s(slow_door, UnreachableError("no route"), "OTHER_PIPE") is None
    assert _exhausted_s(slow_door, OutcomeUnknownError("the connection broke"), "OTHER_PIPE") is None
    slow_door.close()


# --- the delay between two changes ------------------------------------------------------------------


def test_switches_without_a_commit_wait_longer_each_time_up_to_a_day() -> None:
    delays = [switch_delay_s(switches, 0.0) for switches in range(16)]

    assert delays[:5] == [0.0, 60.0, 120.0, 240.0, 480.0]
    assert delays[-1] == 86_400.0
    # A wall clock that was set in between neither ends the wait nor makes it longer.
    assert switch_delay_s(3, -1e9) == 240.0
    assert switch_delay_s(3, 100.0) == 140.0
    assert switch_delay_s(10**6, 0.0) == 86_400.0


@pytest.mark.parametrize(("minutes", "restarts"), [(24 * 60, 0), (120, 120)])
def test_a_pipe_in_which_every_channel_is_of_another_history_gets_few_channels(
    slow_door: UploaderRig, minutes: int, restarts: int
) -> None:
    door = slow_door
    door.run()
    door.keep(3)

    door.pipe.foreign_token = "9-0123456789abcdef"
    door.restart()

    for _ in range(minutes):
        door.run(60)
        if restarts:
            door.restart()

    assert 5 < len(door.pipe.channels) < 15
    assert len(door.pipe.seen) < minutes * 10
    door.pipe.foreign_token = None
    for channel in door.pipe.channels.values():
        channel.committed = None
    door.drain()
    assert values(door) == [1, 2, 3]
    door.close()


def test_a_commit_ends_the_delay(slow_door: UploaderRig) -> None:
    door = slow_door
    for number in range(5):
        door.keep(2)
        door.drain()
        door.restart(agent_id=f"door-{number}")
    before = door.clock.seconds
    door.keep(2)
    door.drain()

    assert door.clock.seconds - before < 330  # the last poll, for late errors, is after 300 s
    assert_whole(door)
    door.close()


# --- a server that went back -------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [0, 1])
def test_rows_that_the_server_had_confirmed_and_lost_are_sent_again_as_a_replay(
    door: UploaderRig, restarts: int, caplog: pytest.LogCaptureFixture
) -> None:
    door.keep(4)
    door.drain()
    channel = door.pipe.channels[door.uploader.status().channel]
    earlier, landed = channel.committed, list(door.pipe.landed)
    door.keep(5)
    door.drain()
    old_id = door.outbox.outbox_id
    channel.committed, door.pipe.landed = earlier, landed
    channel.is_invalid = True
    if restarts:
        door.restart()
    door.keep(2)

    door.drain()

    live = [row["seq"] for _, row in door.pipe.landed if not row.get("replay")]
    assert (live, door.pipe.replayed) == ([1, 2, 3, 4, 10, 11], [5, 6, 7, 8, 9])
    assert door.outbox.outbox_id == old_id
    alarms = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert (
        len(
            [record for record in alarms if "went back to an earlier position: 5 of 5" in record.getMessage()]
        )
        == 1
    )


def test_a_server_that_went_back_to_a_purged_row_is_no_reason_for_a_new_id(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    door.keep(4)
    door.drain()
    channel = door.pipe.channels[door.uploader.status().channel]
    earlier, old_id = channel.committed, door.outbox.outbox_id
    door.keep(5)
    door.drain()
    while door.outbox.purge(kept_since_us=None, max_bytes=0):
        pass
    channel.committed = earlier
    door.restart()
    door.keep(2)

    door.drain()

    assert door.outbox.outbox_id == old_id
    assert door.pipe.table[-2:] == [10, 11]
    assert "0 of 5 rows" in caplog.text


@pytest.mark.parametrize("token", [None, ""])
def test_an_empty_token_means_that_nothing_is_committed(door: UploaderRig, token: str | None) -> None:
    door.keep(4)
    door.drain()
    door.pipe.channels[door.uploader.status().channel].committed = token
    old_id = door.outbox.outbox_id
    door.restart()
    door.keep(2)

    door.drain()

    assert door.outbox.outbox_id == old_id
    assert door.pipe.table == [1, 2, 3, 4, 5, 6]


def test_rows_lost_by_the_server_are_sent_again_also_when_the_door_was_renamed(
    slow_door: UploaderRig,
) -> None:
    door = slow_door
    door.keep(4)
    door.drain()
    channel = door.pipe.channels[door.uploader.status().channel]
    earlier = channel.committed
    door.keep(5)
    door.drain()
    channel.committed = earlier

    renamed(door)
    door.keep(2)
    door.drain()

    assert door.pipe.replayed == [5, 6, 7, 8, 9]
    assert door.pipe.table[-2:] == [1, 2]
    door.close()


def test_a_switch_on_a_full_disk_uses_the_reserve(
    slow_door: UploaderRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = slow_door
    in_flight(door, 5, 3, 2)
    renamed(door)
    freed: list[bool] = []
    real = door.outbox.file.writing

    @contextmanager
    def full(*, durable: bool = True) -> Iterator[sqlite3.Connection]:
        with real(durable=durable) as connection:
            yield connection
            if durable and not freed:
                raise OutboxFullError("the disk is full")

    monkeypatch.setattr(door.outbox.file, "writing", full)
    monkeypatch.setattr(door.outbox._reserve, "free_rest", lambda: freed.append(True))
    resume(door)

    assert freed
    assert_whole(door)
    door.close()
