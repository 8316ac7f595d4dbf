from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path

import pytest

from agent.errors import OutboxCorruptError
from agent.keys.keypair import KeyPair
from agent.outbox import LiveRows, generation
from agent.outbox.external import holds
from agent.outbox.records import Generation, new_outbox_id
from agent.snowpipe.wire import Reply
from tests.support.pipe_model import Invalidate, Lose, Refuse, Unreachable
from tests.support.uploader_rig import UploaderRig


def values(door: UploaderRig) -> list[int]:
    """The cards in the table, in order."""
    return [int(row["card_raw"], 16) for _, row in door.pipe.landed]


# --- the channel ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        Refuse(400, "STALE_CONTINUATION_TOKEN_SEQUENCER"),
        Refuse(404, "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED"),
        Refuse(409, "ERR_CHANNEL_MUST_BE_REOPENED_DUE_TO_ROW_SEQ_GAP"),
        Lose(processed=True),
        Lose(processed=False),
        Invalidate(),
    ],
)
def test_after_a_doubt_the_channel_is_opened_again_and_tells_where_it_stands(
    door: UploaderRig, fault: Refuse | Lose | Invalidate
) -> None:
    door.keep(5)
    door.drain()
    door.pipe.faults.append(fault)
    door.keep(5)

    door.drain()

    assert values(door) == list(range(1, 11))
    assert len(door.pipe.of("open")) == 2


@pytest.mark.parametrize("code", ["STALE_PIPE_CACHE", "ERR_TABLE_DOES_NOT_EXIST_NOT_AUTHORIZED"])
def test_a_channel_that_opens_ill_takes_no_row_until_it_is_well(door: UploaderRig, code: str) -> None:
    door.pipe.status_code = code
    door.keep(5)
    door.run(600)
    appends = len(door.pipe.of("append"))
    reason = door.uploader.status().reason

    door.pipe.status_code = "SUCCESS"
    door.drain()

    assert appends == 0
    assert reason is not None
    assert code in reason
    assert values(door) == [1, 2, 3, 4, 5]


def test_a_channel_that_stays_ill_is_asked_at_a_slow_pace(door: UploaderRig) -> None:
    door.pipe.status_code = "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED"

    door.run(3600)

    assert len(door.pipe.of("open")) < 120


def test_a_commit_that_takes_hours_is_waited_for_and_nothing_is_discarded(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    door.pipe.lag_s = 4 * 3600
    door.keep(5)
    door.run(590)
    early = door.uploader.status()
    door.run(3600)
    late, polls = door.uploader.status(), len(door.pipe.of("status"))
    door.run(3600)
    polls_in_an_hour = len(door.pipe.of("status")) - polls
    door.drain()

    assert (early.state, late.state) == ("sending", "waiting")
    assert "minutes" in (late.reason or "")
    assert "nothing sent was committed for 10 minutes" in caplog.text
    assert polls_in_an_hour <= 13
    assert door.pipe.discarded == 0
    assert len(door.pipe.of("open")) <= 5  # the first one, then each twice as long after the one before
    assert len(door.pipe.of("append")) == 1
    assert values(door) == [1, 2, 3, 4, 5]
    assert door.uploader.status().state == "idle"


def test_rows_that_the_server_has_lost_are_sent_again_without_a_new_swipe(door: UploaderRig) -> None:
    door.pipe.lag_s = 60
    door.keep(5)
    door.run(1)
    door.pipe.other_writer(door.uploader.status().channel)

    door.run(3600)

    assert values(door) == [1, 2, 3, 4, 5]
    assert door.outbox.pending == 0
    assert door.uploader.status().state == "idle"


def test_a_reopening_waits_for_what_is_not_committed_yet(tmp_path: Path, key: KeyPair) -> None:
    door = UploaderRig(tmp_path, key, lag_s=60)
    door.keep(5)
    door.run(1)
    door.pipe.faults.append(Lose(processed=True))
    door.keep(5)

    door.drain()

    assert values(door) == list(range(1, 11))
    assert door.pipe.discarded == 0
    door.close()


def test_what_is_not_committed_in_two_minutes_after_a_doubt_is_discarded_and_sent_again(
    tmp_path: Path, key: KeyPair
) -> None:
    door = UploaderRig(tmp_path, key, lag_s=3600)
    door.keep(5)
    door.run(1)
    door.pipe.faults.append(Lose(processed=True))
    door.keep(5)
    door.run(10)
    door.pipe.lag_s = 1
    door.run(300)

    assert values(door) == list(range(1, 11))
    assert door.pipe.discarded == 10
    door.close()


def test_a_pipe_that_answers_410_for_a_day_is_reopened_at_a_slow_pace(door: UploaderRig) -> None:
    door.keep(1)
    door.drain()
    hosts = len(door.pipe.of("hostname"))
    door.pipe.fails = lambda endpoint: (
        Reply(410, {}, b"") if endpoint in {"open", "append", "status"} else None
    )
    door.keep(1)
    door.run(86_400)
    requests = len(door.pipe.of("open", "append", "status"))
    hosts = len(door.pipe.of("hostname")) - hosts

    door.pipe.fails = lambda _: None
    door.run(120)

    assert values(door) == [1, 2]
    assert len(door.pipe.of("append")) <= 3  # not the same bytes for hours
    assert requests < 6000
    assert hosts > 1000  # a new name each time


@pytest.mark.parametrize(
    "answer", [Reply(503, {}, b'{"code": "X"}'), Reply(404, {}, b""), Reply(403, {}, b"")], ids=str
)
def test_rows_land_while_the_status_endpoint_alone_fails(door: UploaderRig, answer: Reply) -> None:
    door.pipe.fails = lambda endpoint: answer if endpoint == "status" else None

    for _ in range(20):
        door.keep(1)
        door.run(300)
    door.run(3600)

    assert values(door) == list(range(1, 21))
    assert door.outbox.pending == 0


@pytest.mark.parametrize(
    "fault", [Refuse(503, retry_after=0), Unreachable(), Lose(processed=False), Refuse(409)]
)
def test_a_failing_door_sends_at_most_one_request_a_second(
    door: UploaderRig, fault: Refuse | Unreachable | Lose
) -> None:
    door.keep(1)
    door.drain()
    door.pipe.faults.extend([fault] * 10_000)
    seen = len(door.pipe.seen)
    door.keep(1)
    door.run(3600)

    moments = [seen.at for seen in door.pipe.seen[seen:] if seen.endpoint in {"open", "append", "status"}]
    # The first failure makes the series.
    assert all(after - before >= 0.99 for before, after in pairwise(moments))
    assert len(moments) < 400


def test_a_door_whose_rows_are_refused_sends_at_most_one_request_a_second(door: UploaderRig) -> None:
    door.keep(1)
    door.drain()
    door.pipe.refuses = lambda _: True
    seen = len(door.pipe.seen)
    door.keep(500)

    door.run(3 * 3600)  # the request gets smaller, a row is retried, the rows after it are tried

    moments = [seen.at for seen in door.pipe.seen[seen:] if seen.endpoint in {"open", "append", "status"}]
    assert len(moments) > 100
    # Host and token are renewed within a call, which takes 0.02 s.
    assert all(after - before >= 0.97 for before, after in pairwise(moments))


def test_a_replay_keeps_the_pause_of_live_rows_that_fail(door: UploaderRig) -> None:
    door.keep(300)
    door.drain()
    door.pipe.refused_channels = {"door-" + door.outbox.outbox_id}
    door.keep(1)
    door.run(10)
    for first in range(1, 300, 10):
        door.replay(first_seq=first, last_seq=first + 5)
    seen = len(door.pipe.seen)

    door.run(120)

    moments = [seen.at for seen in door.pipe.seen[seen:] if seen.endpoint in {"open", "append", "status"}]
    assert len(door.pipe.replayed) == 180
    assert all(after - before >= 0.99 for before, after in pairwise(moments))


def test_ten_minutes_are_counted_from_the_append_and_not_from_the_commit_before(door: UploaderRig) -> None:
    door.keep(1)
    door.drain()
    door.clock.advance(3600)
    door.keep(1)

    door.drain()

    assert len(door.pipe.of("open")) == 1


def test_a_deleted_channel_is_opened_with_our_position(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    token = LiveRows(door.outbox).committed_token()
    door.pipe.forget_channel()
    door.keep(5)

    door.drain()

    assert values(door) == list(range(1, 11))
    assert token is not None
    assert token.encode() in door.pipe.of("open")[-1].body


def test_a_second_writer_that_only_opens_costs_one_reopen(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    door.pipe.other_writer(door.uploader.status().channel)
    door.keep(5)

    door.drain()

    assert values(door) == list(range(1, 11))
    assert len(door.pipe.of("open")) == 2


@pytest.mark.parametrize("token", ["12-0123456789abcdef", "3-0123456789abcdef", "what is this?", ""])
def test_a_token_that_is_not_ours_is_never_adopted(
    door: UploaderRig, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    door.keep(5)
    door.drain()
    old = door.outbox.outbox_id
    door.pipe.other_writer(f"door-{old}", token or "0")
    door.keep(5)

    door.drain()

    assert door.outbox.outbox_id != old
    assert values(door) == list(range(1, 11))
    assert door.pipe.table == [1, 2, 3, 4, 5, 1, 2, 3, 4, 5]
    assert len([record for record in caplog.records if record.levelno == logging.ERROR]) == 1


def test_a_token_that_moves_away_while_rows_are_on_their_way_is_not_adopted_either(
    tmp_path: Path, key: KeyPair
) -> None:
    door = UploaderRig(tmp_path, key, lag_s=1.0)
    door.keep(5)
    door.run(0.5)
    door.pipe.other_writer(f"door-{door.outbox.outbox_id}", "99-0123456789abcdef")

    door.drain()

    assert values(door) == [1, 2, 3, 4, 5]
    door.close()


# --- the file -------------------------------------------------------------------------------


def test_a_backup_that_is_behind_the_token_goes_on_under_a_new_id(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    backup = door.image()
    door.keep(3)
    door.drain()
    old = door.outbox.outbox_id

    door.restore(backup)
    door.keep(2)
    door.drain()

    assert door.outbox.outbox_id != old
    assert values(door) == list(range(1, 11))


def test_a_backup_that_took_more_swipes_than_the_token_is_ahead_loses_none_of_them(door: UploaderRig) -> None:
    door.keep(5)
    door.drain()
    backup = door.image()
    door.keep(3)
    door.drain()

    door.restore(backup)
    door.keep(20)  # seq 6 to 25: the token's seq 8 is among them, in another history
    door.drain()

    assert values(door) == list(range(1, 29))
    assert door.outbox.last_seq == 20


@pytest.mark.parametrize(
    ("of_the_original", "again"),
    [(0, []), (1, [4, 5])],  # a row that the copy has no record of: then the token proves nothing
)
def test_the_copy_of_a_card_and_its_original_both_deliver(
    tmp_path: Path, key: KeyPair, of_the_original: int, again: list[int]
) -> None:
    (state_dir := tmp_path / "state").mkdir()
    door = UploaderRig(state_dir, key, machine_id="1" * 16)
    door.keep(3)
    door.drain()
    door.keep(2)  # pending on both cards
    copy = door.image()

    door.keep(of_the_original)
    door.drain()
    original = door.outbox.outbox_id
    door.machine_id = "2" * 16
    door.restore(copy)
    door.keep(1)
    door.drain()

    number = door.kept
    assert values(door) == [*range(1, number), *again, number]
    assert len({row["event_id"] for _, row in door.pipe.landed}) == number
    assert door.outbox.outbox_id != original
    door.close()


def test_a_new_card_with_an_empty_outbox_is_not_swallowed_by_an_old_token(
    door: UploaderRig, tmp_path: Path
) -> None:
    door.keep(9)
    door.drain()

    (new := tmp_path / "new").mkdir()
    door.restore(new)
    door.keep(3)
    door.drain()

    assert door.pipe.table == [*range(1, 10), 1, 2, 3]


def test_a_crash_at_any_step_neither_loses_nor_doubles(tmp_path: Path, key: KeyPair) -> None:
    (state_dir := tmp_path / "state").mkdir()
    door = UploaderRig(state_dir, key, lag_s=0.03)

    for _ in range(25):
        door.keep(2)
        door.run(0.04)
        door.crash()
    door.drain()

    assert values(door) == list(range(1, 51))
    door.close()


def test_a_file_that_is_damaged_while_rows_are_sent_goes_on_under_a_new_id(
    door: UploaderRig, caplog: pytest.LogCaptureFixture
) -> None:
    door.keep(6)
    door.drain()
    door.keep(6)

    fault = OutboxCorruptError("outbox.db: database disk image is malformed")
    door.outbox._file.rebuild(fault, door.outbox.outbox_id)
    door.keep(6)
    door.drain()

    assert values(door) == list(range(1, 19))
    assert "the file was damaged" in caplog.text


def test_a_disk_that_damages_every_new_file_is_not_worn_out(
    door: UploaderRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.keep(3)

    def broken(rows: LiveRows, *_: object) -> None:
        with rows._outbox.reading():
            raise OutboxCorruptError("outbox.db: database disk image is malformed")

    with monkeypatch.context() as patched:
        patched.setattr(LiveRows, "_read_after", broken)
        door.run(600)
    copies = len(list(door.state_dir.glob("outbox.db.corrupt-*[0-9]")))
    door.drain()

    assert copies < 40
    assert values(door) == [1, 2, 3]


# --- what is in the request -----------------------------------------------------------------


def test_a_try_is_counted_only_when_the_rows_were_sent(tmp_path: Path, key: KeyPair) -> None:
    door = UploaderRig(tmp_path, key, lag_s=0.3)
    door.keep(1)
    door.run(0.1)
    door.keep(1)
    # The waiting append is refused, then the poll for the first commit, then the append is accepted.
    door.pipe.faults += [Refuse(503), Refuse(503), Unreachable()]

    door.drain()

    tries = door.pipe.of("append")[1:]
    counts = [seen.retry_count for seen in tries if seen.request_id == tries[0].request_id]
    assert counts == list(range(len(counts)))
    door.close()


# --- several generations ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [None, Lose(processed=True), Lose(processed=False), Refuse(503), Invalidate()]
)
def test_the_rows_of_each_generation_go_through_its_channel_one_after_the_other(
    door: UploaderRig, fault: Refuse | Lose | Invalidate | None
) -> None:
    door.keep(3)
    for _ in range(2):
        with door.outbox._file.changing() as connection:
            later = Generation(door.outbox.state.last_n + 1, new_outbox_id(), door.outbox.state.last_chain)
            generation.add(connection, later)
        door.keep(3)
    ids = [one.outbox_id for one in door.outbox.state.generations]
    if fault is not None:
        door.pipe.faults.append(fault)

    door.drain()
    door.keep(1)
    door.drain()

    assert values(door) == list(range(1, 11))
    assert [channel for channel, _ in door.pipe.landed] == [f"door-{i}" for i in ids for _ in range(3)] + [
        f"door-{ids[-1]}"
    ]
    assert [row["seq"] for _, row in door.pipe.landed] == [1, 2, 3, 1, 2, 3, 1, 2, 3, 4]


def test_a_row_that_is_damaged_on_the_disk_stops_no_other(door: UploaderRig) -> None:
    door.keep(9)
    with door.outbox.file.writing() as connection:
        connection.execute(
            "UPDATE swipes SET row = CAST(replace(row, '\"event_', '\"evemt_') AS BLOB) WHERE n < 3"
        )

    door.drain()

    assert values(door) == [3, 4, 5, 6, 7, 8, 9]
    assert [hold.first_seq for hold in holds.holds(door.state_dir)] == [1, 2]
