from __future__ import annotations

import logging
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.keys.keypair import KeyPair
from agent.settings import UploaderSettings
from agent.snowpipe.wire import Reply
from tests.support.pipe_model import Fault, Invalidate, Lose, Refuse, Seen, Unreachable
from tests.support.swipes import swipe
from tests.support.uploader_rig import UploaderRig


def seqs(count: int) -> list[int]:
    return list(range(1, count + 1))


def pauses(seen: list[Seen]) -> list[float]:
    return [after.at - before.at for before, after in pairwise(seen)]


# --- the ordinary way -----------------------------------------------------------------------


def test_what_was_swiped_is_in_the_table_once_and_in_order(door: UploaderRig) -> None:
    door.keep(50)

    door.drain()

    assert door.pipe.table == seqs(50)


def test_a_swipe_is_sent_at_once_when_the_door_was_idle(door: UploaderRig) -> None:
    door.run()
    asked_at = door.clock.seconds

    door.keep(1)
    door.uploader.step()

    (append,) = door.pipe.of("append")
    assert append.at == asked_at


def test_what_gathered_while_a_request_was_on_its_way_goes_in_one_batch(door: UploaderRig) -> None:
    door.run()
    door.keep(1)
    door.uploader.step()
    door.keep(30)

    door.drain()

    assert len(door.pipe.of("append")) == 2


def test_one_request_is_in_flight_at_a_time(door: UploaderRig) -> None:
    door.keep(100)

    door.drain()

    assert door.pipe.most_in_flight == 1


def test_a_step_makes_one_call_at_most(door: UploaderRig) -> None:
    """Each may take minutes, and the watchdog allows for one."""
    door.keep(3)
    door.drain()
    door.replay(first_seq=1)
    door.pipe.fails = lambda _: Reply(503, {}, b"")
    door.keep(1)

    calls = []
    for _ in range(200):
        before = len(door.pipe.of("open", "append", "status"))
        door.clock.advance(max(door.uploader.step() or 0.0, 0.01))
        calls.append(len(door.pipe.of("open", "append", "status")) - before)

    assert max(calls) == 1
    assert {"replay" in seen.channel for seen in door.pipe.of("open")} == {True, False}


def test_an_idle_door_costs_no_request(door: UploaderRig) -> None:
    door.keep(3)
    door.drain()
    before = len(door.pipe.seen)

    for _ in range(100):
        door.clock.advance(60)
        assert door.uploader.step() is None

    assert len(door.pipe.seen) == before


def test_a_restart_sends_nothing_again(door: UploaderRig) -> None:
    door.keep(20)
    door.drain()

    door.new_uploader()
    door.drain()

    assert door.pipe.table == seqs(20)


def test_an_agent_that_ended_with_rows_on_their_way_goes_on_where_the_server_stands(
    door: UploaderRig,
) -> None:
    door.keep(20)
    door.run(0.03)  # sent, not committed

    door.new_uploader()
    door.keep(20)
    door.drain()

    assert door.pipe.table == seqs(40)


# --- pace -----------------------------------------------------------------------------------


def test_no_second_sees_more_than_ten_requests(tmp_path: Path, key: KeyPair) -> None:
    door = UploaderRig(tmp_path, key, lag_s=0.4, way_s=0.0)

    for _ in range(300):
        door.keep(1)
        door.run(0.02)
    door.drain()

    moments = [seen.at for seen in door.pipe.of("open", "append", "status")]
    for start in moments:
        assert sum(start <= at < start + 1.0 for at in moments) <= 10
    assert door.pipe.table == seqs(300)
    door.close()


def test_a_backlog_respects_the_byte_rate_and_the_request_size(tmp_path: Path, key: KeyPair) -> None:
    settings = UploaderSettings(2_000, 10, 60_000, 60)
    door = UploaderRig(tmp_path, key, way_s=0.0, settings=settings)
    door.keep(1000)

    door.drain()

    appends = door.pipe.of("append")
    assert door.pipe.table == seqs(1000)
    assert max(len(seen.body) for seen in appends) <= 2_000
    assert appends[-1].at - appends[0].at > 5  # some 500 kB
    door.close()


def test_polls_double_their_pause_up_to_five_seconds_and_stop_once_all_is_committed(
    tmp_path: Path, key: KeyPair
) -> None:
    door = UploaderRig(tmp_path, key, lag_s=30, way_s=0.0)
    door.keep(1)

    door.drain()

    polls = door.pipe.of("status")
    assert pauses(polls)[:6] == pytest.approx([0.25, 0.5, 1, 2, 4, 5], abs=1e-3)
    assert polls[0].at - door.pipe.of("append")[0].at == pytest.approx(0.25, abs=1e-3)
    assert polls[-2].at - door.pipe.of("append")[0].at < 36
    assert polls[-1].at - polls[-2].at == pytest.approx(300, abs=1)  # for errors that are counted late
    door.close()


# --- failures -------------------------------------------------------------------------------


def test_a_request_that_was_refused_for_now_is_sent_again_the_very_same(door: UploaderRig) -> None:
    door.run()  # the channel is open before anything goes wrong
    door.pipe.faults += [Refuse(503), Refuse(429), Refuse(500)]
    door.keep(5)

    door.drain()

    tries = door.pipe.of("append")[-4:]
    assert len({(seen.request_id, seen.body) for seen in tries}) == 1
    assert [seen.retry_count for seen in tries] == [0, 1, 2, 3]
    assert door.pipe.table == seqs(5)


def test_a_server_that_says_when_is_asked_then(door: UploaderRig) -> None:
    door.run()  # the channel is open before anything goes wrong
    door.pipe.faults.append(Refuse(429, retry_after=17))
    door.keep(1)

    door.drain()

    refused, again = door.pipe.of("append")[-2:]
    assert again.at - refused.at == pytest.approx(17, abs=0.1)


def test_pauses_between_tries_grow_no_longer_than_the_configured_maximum(door: UploaderRig) -> None:
    door.pipe.faults += [Unreachable()] * 40
    door.keep(1)

    door.drain()

    tries = door.pipe.of("open")
    assert len(tries) == 41
    assert max(pauses(tries)) <= 60.1
    assert sum(pauses(tries)) > 600


@pytest.mark.parametrize("processed", [False, True])
def test_a_lost_reply_neither_loses_nor_doubles(door: UploaderRig, *, processed: bool) -> None:
    door.keep(5)
    door.drain()
    door.pipe.faults.append(Lose(processed=processed))
    door.keep(5)

    door.drain()

    assert door.pipe.table == seqs(10)
    assert len(door.pipe.of("open")) == 2


def test_a_lost_reply_whose_rows_were_committed_meanwhile_does_not_double(
    tmp_path: Path, key: KeyPair
) -> None:
    door = UploaderRig(tmp_path, key, lag_s=0.0)
    door.pipe.faults += [Lose(processed=True)] * 3
    door.keep(5)

    door.drain()

    assert door.pipe.table == seqs(5)
    door.close()


def test_a_channel_that_fell_ill_is_reopened_though_appends_still_answer_200(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    door.pipe.faults.append(Invalidate())
    door.keep(5)

    door.drain()

    assert door.pipe.table == seqs(10)


def test_another_writer_of_the_channel_is_a_doubt_that_a_reopen_ends(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    door.pipe.faults.append(Refuse(400, "STALE_CONTINUATION_TOKEN_SEQUENCER"))
    door.keep(5)

    door.drain()

    assert door.pipe.table == seqs(10)


def test_a_channel_deleted_with_its_position_goes_on_after_our_own(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    door.pipe.forget_channel()
    door.new_uploader()
    door.keep(5)

    door.drain()

    assert door.pipe.table == seqs(10)


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_hold_every_row_at_a_slow_pace_until_they_are_good(
    door: UploaderRig, status: int
) -> None:
    door.run()  # the channel is open before anything goes wrong
    door.pipe.faults += [Refuse(status)] * 12
    door.keep(5)
    door.run(1.0)

    holding = door.uploader.status()
    door.drain()

    assert holding.state == "holding"
    assert holding.reason is not None
    assert str(status) in holding.reason
    assert holding.next_try_seconds > 20
    assert door.pipe.table == seqs(5)


def test_a_failure_is_told_once_and_its_end_once(door: UploaderRig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    door.pipe.faults += [Unreachable()] * 5
    door.keep(5)

    door.drain()

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    told = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert sum("recovered after 5 failures" in line for line in told) == 1


def test_no_card_is_in_the_log_or_in_the_status(door: UploaderRig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="agent")
    door.outbox.keep(swipe(0x63E9AE))
    door.pipe.faults += [Refuse(400, "ERR_ROWS"), Lose(processed=True), Refuse(503), Refuse(401)]

    door.drain()

    assert "63E9AE" not in f"{caplog.text}{door.uploader.status()!r}"


# --- any course of events -------------------------------------------------------------------

faults = st.sampled_from(
    [
        Refuse(503),
        Refuse(429, retry_after=3),
        Refuse(401),
        Refuse(403),
        Refuse(400, "STALE_CONTINUATION_TOKEN_SEQUENCER"),
        Refuse(404, "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED"),
        Refuse(409, "ERR_CHANNEL_MUST_BE_REOPENED"),
        Lose(processed=True),
        Lose(processed=False),
        Unreachable(),
        Invalidate(),
    ]
)
events = st.one_of(
    st.tuples(st.just("swipes"), st.integers(1, 5)),
    st.tuples(st.just("fault"), faults),
    st.tuples(st.just("time"), st.floats(0.001, 20)),
    st.tuples(st.just("restart"), st.none()),
)


@settings(max_examples=60, deadline=None)
@given(course=st.lists(events, max_size=25), lag_s=st.sampled_from([0.0, 0.1, 2.0]))
def test_whatever_happens_every_swipe_is_there_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    key: KeyPair,
    course: list[tuple[str, int | float | Fault | None]],
    lag_s: float,
) -> None:
    with ExitStack() as stack:
        door = UploaderRig(tmp_path_factory.mktemp("door"), key, lag_s=lag_s)
        stack.callback(door.close)
        for event, argument in course:
            if event == "swipes" and isinstance(argument, int):
                door.keep(argument)
            elif event == "time" and isinstance(argument, float):
                door.run(argument)
            elif event == "restart":
                door.new_uploader()
            elif isinstance(argument, Fault):
                door.pipe.faults.append(argument)

        door.drain()

        assert door.pipe.table == seqs(door.outbox.last_seq)
        assert door.pipe.most_in_flight <= 1
