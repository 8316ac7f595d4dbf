"""Channels over HTTP: open, append, status, drop, as the service answers them."""

from __future__ import annotations

import pytest

from tests.support.emulator_process import DATABASE, PIPE, SCHEMA, EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, error_code, row, wait_for

STALE = (400, "STALE_CONTINUATION_TOKEN_SEQUENCER")
NO_PIPE = (404, "ERR_PIPE_DOES_NOT_EXIST_OR_NOT_AUTHORIZED")
NO_CHANNEL = (404, "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED")
UNCOMMITTED = (409, "ERR_CHANNEL_HAS_UNCOMMITTED_DATA")


def test_a_new_channel_has_no_offset_token_and_no_rows(door: EmulatorRig) -> None:
    status = door.open().json()["channel_status"]

    assert status["last_committed_offset_token"] is None
    assert (status["database_name"], status["schema_name"], status["pipe_name"]) == (DATABASE, SCHEMA, PIPE)
    assert (status["channel_name"], status["channel_status_code"]) == (door.channel, "SUCCESS")
    assert isinstance(status["created_on_ms"], int)
    assert [status[name] for name in ("rows_inserted", "rows_parsed", "rows_error_count")] == [0, 0, 0]
    assert status["last_error_message"] is None


def test_appended_rows_are_committed_with_their_offset_token(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    door.opened()

    reply = door.append([row(seq=1), row(seq=2)], "2-abc")

    assert reply.json()["status_code"] == 0
    assert door.committed("2-abc")["rows_inserted"] == 2
    rows = [stored for stored in emulator.rows() if stored["channel_name"] == door.channel]
    assert [(stored["seq"], stored["offset_token"]) for stored in rows] == [(1, "2-abc"), (2, "2-abc")]


def test_200_is_not_a_commit(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    emulator.fault("stall_commits")
    door.opened()

    door.append([row()], "1")

    assert door.status()["last_committed_offset_token"] is None
    assert emulator.channel_state(door.channel)["rows_uncommitted"] == 1
    emulator.fault("resume_commits")
    door.committed("1")


def test_the_older_single_offset_token_is_taken(door: EmulatorRig) -> None:
    door.opened()

    door.append([row()], offsetToken="7")

    door.committed("7")


def test_rows_without_an_offset_token_leave_it_as_it_was(door: EmulatorRig) -> None:
    door.opened()
    door.append([row()], "1")

    door.append([row()])

    status = wait_for(door.status, lambda status: status["rows_inserted"] == 2)
    assert status["last_committed_offset_token"] == "1"


def test_the_same_offset_token_twice_is_two_rows(door: EmulatorRig) -> None:
    door.opened()

    door.append([row()], "1")
    door.append([row()], "1")

    assert wait_for(door.status, lambda status: status["rows_inserted"] == 2)


def test_a_continuation_token_is_good_once(door: EmulatorRig) -> None:
    first = door.opened().continuation_token
    door.append([row()], "1")

    reply = door.append([row()], "2", continuationToken=first)

    assert error_code(reply) == STALE
    assert door.append([row()], "2").status_code == 200


def test_a_reopen_fences_the_writer_before(door: EmulatorRig) -> None:
    older = door.opened().continuation_token
    door.open()

    reply = door.append([row()], "1", continuationToken=older)

    assert error_code(reply) == STALE


@pytest.mark.parametrize("token", ["", "bogus", "1_0", "1_1_00000000"])
def test_an_invented_continuation_token_is_stale(door: EmulatorRig, token: str) -> None:
    door.opened()

    reply = door.append([row()], continuationToken=token)

    assert error_code(reply) == STALE


def test_an_append_without_a_continuation_token_is_malformed(door: EmulatorRig) -> None:
    door.opened()

    reply = door.call("POST", door.rows_path, data=b"{}\n")

    assert error_code(reply) == (400, "ERR_MALFORMED_REQUEST")


def test_a_reopen_discards_what_was_not_committed(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened().append([row(seq=1)], "1")
    door.committed("1")
    emulator.fault("stall_commits")
    door.append([row(seq=2)], "2")

    status = door.open().json()["channel_status"]

    assert status["last_committed_offset_token"] == "1"
    emulator.fault("resume_commits")
    door.append([row(seq=3)], "3")
    assert door.committed("3")["rows_inserted"] == 2
    stored = [item["seq"] for item in emulator.rows() if item["channel_name"] == door.channel]
    assert stored == [1, 3]


def test_open_and_drop_can_insist_that_nothing_is_uncommitted(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    emulator.fault("stall_commits")
    door.opened().append([row()], "1")

    opening = door.open(fail_on_uncommitted_rows=True)
    dropping = door.drop(fail_on_uncommitted_rows=True)

    assert (error_code(opening), error_code(dropping)) == (UNCOMMITTED, UNCOMMITTED)
    assert door.append([row()], "2").status_code == 200  # no writer was fenced
    emulator.fault("resume_commits")
    door.committed("2")
    assert door.open(fail_on_uncommitted_rows=True).status_code == 200


def test_an_open_can_set_the_offset_token(door: EmulatorRig) -> None:
    status = door.open(offset_token="41-f00").json()["channel_status"]

    assert status["last_committed_offset_token"] == "41-f00"
    assert door.status()["last_committed_offset_token"] == "41-f00"
    assert door.open().json()["channel_status"]["last_committed_offset_token"] == "41-f00"


def test_a_dropped_channel_is_gone_with_its_token(door: EmulatorRig) -> None:
    door.opened().append([row()], "1")
    door.committed("1")

    reply = door.drop()

    assert reply.json()["last_committed_offset_token"] == "1"
    assert door.bulk_status(door.channel) == {}
    assert error_code(door.append([row()], "2")) == NO_CHANNEL
    assert error_code(door.drop()) == NO_CHANNEL
    assert door.open().json()["channel_status"]["last_committed_offset_token"] is None


def test_names_in_the_path_have_no_case_and_names_in_bulk_status_do(door: EmulatorRig) -> None:
    door.opened()
    name = door.channel
    door.channel = name.upper()

    reply = door.open()

    assert reply.json()["channel_status"]["channel_name"] == name
    assert set(door.bulk_status(name, name.upper(), "unknown")) == {name}
    lower_path = door.pipe_path.lower()
    assert door.call("POST", f"{lower_path}:pipe-info", json={}).status_code == 200


def test_a_name_may_be_percent_encoded(emulator: EmulatorProcess) -> None:
    door = EmulatorRig(emulator.url, channel="café 1/2 %")

    door.opened().append([row()], "1")

    assert door.committed("1")["channel_name"] == "café 1/2 %"


def test_both_spellings_of_the_error_counter_are_there(door: EmulatorRig) -> None:
    door.opened().append([row(), {"badge_id": "only"}, row()], "3")

    status = door.committed("3")

    assert (status["rows_inserted"], status["rows_parsed"]) == (2, 3)
    assert (status["rows_error_count"], status["rows_errors"]) == (1, 1)
    assert status["last_error_offset_upper_bound"] == "3"
    assert status["last_error_message"] == "NULL result in a non-nullable column USER_ID"
    assert status["last_error_timestamp"] == status["last_error_timestamp_ms"] > 1e12


def test_counters_go_on_after_a_reopen(door: EmulatorRig) -> None:
    door.opened().append([row(), {}], "2")
    door.committed("2")

    status = door.open().json()["channel_status"]

    assert (status["rows_inserted"], status["rows_error_count"]) == (1, 1)


@pytest.mark.parametrize(("part", "other"), [(DATABASE, "OTHER"), (SCHEMA, "OTHER"), (PIPE, "OTHER")])
def test_an_unknown_database_schema_or_pipe_is_404(door: EmulatorRig, part: str, other: str) -> None:
    paths = [
        path.replace(part, other) for path in (door.channel_path, f"{door.pipe_path}:bulk-channel-status")
    ]

    replies = [door.call("PUT", paths[0], json={}), door.call("POST", paths[1], json={"channel_names": []})]

    assert [error_code(reply) for reply in replies] == [NO_PIPE, NO_PIPE]


def test_an_append_to_a_channel_nobody_opened_is_404(door: EmulatorRig) -> None:
    reply = door.append([row()], "1", continuationToken="1_0")

    assert error_code(reply) == NO_CHANNEL


def test_pipes_keep_their_channels_apart(emulator: EmulatorProcess) -> None:
    first = EmulatorRig(emulator.url, channel="same-name").opened()
    second = EmulatorRig(emulator.url, channel="same-name", pipe="SECOND_PIPE").opened()

    first.append([row()], "1")
    second.append([row(), row()], "2")

    assert first.committed("1")["rows_inserted"] == 1
    assert second.committed("2")["rows_inserted"] == 2
    stored = [item["pipe_name"] for item in emulator.rows() if item["channel_name"] == "same-name"]
    assert sorted(stored) == ["SECOND_PIPE", "SECOND_PIPE", PIPE]


def test_the_session_of_a_pipe_has_all_the_vendor_asks_for(door: EmulatorRig) -> None:
    info = door.call("POST", f"{door.pipe_path}:pipe-info", json={"generate_new_token": True}).json()

    assert set(info) == {"rowset_stage_location", "durable_stage_location", "encryption_info"}
    assert len(info["rowset_stage_location"]["parameters"]) == 10
    assert set(info["encryption_info"]) == {"pipe_key", "pipe_key_id", "diversifier"}


@pytest.mark.parametrize("where", ["tables/RAW_BADGE_EVENTS", f"pipes/{PIPE}/channels/ELASTIC"])
def test_elastic_mode_takes_rows_without_any_token(
    door: EmulatorRig, emulator: EmulatorProcess, where: str
) -> None:
    path = f"/v2/streaming/data/databases/{DATABASE}/schemas/{SCHEMA}/{where}/rows"
    before = door.bulk_status("ELASTIC")["ELASTIC"]["rows_inserted"]

    reply = door.call("POST", path, data=b'{"no": "row"}\n')
    with_token = door.call("POST", path, params={"offsetToken": "1"}, data=b"")

    assert reply.json() == {"message": "OK", "next_continuation_token": ""}
    assert error_code(with_token) == (400, "ERR_MALFORMED_REQUEST")
    assert before == 0
    wait_for(lambda: emulator.channel_state("ELASTIC"), lambda state: state["rows_uncommitted"] == 0)


def test_the_elastic_channel_is_not_opened_and_has_one_table(
    emulator: EmulatorProcess, door: EmulatorRig
) -> None:
    table = f"/v2/streaming/data/databases/{DATABASE}/schemas/{SCHEMA}/tables/OTHER/rows"

    opening = EmulatorRig(emulator.url, channel="ELASTIC").open()
    other = door.call("POST", table, data=b"")

    assert error_code(opening) == (400, "ERR_MALFORMED_REQUEST")
    assert error_code(other) == NO_PIPE
