"""Fault injection, and the state that the emulator reports."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, error_code, key_pair_jwt, ndjson, row, wait_for

REOPEN = "ERR_CHANNEL_MUST_BE_REOPENED"


def test_a_status_is_answered_as_often_as_asked(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("status", on="append", status=503, code="BUSY", message="later", retry_after=2, times=2)

    refused = [door.append([row()], "1") for _ in range(2)]
    taken = door.append([row()], "1")

    assert [error_code(reply) for reply in refused] == [(503, "BUSY")] * 2
    assert (refused[0].headers["Retry-After"], refused[0].json()["message"]) == ("2", "later")
    assert taken.status_code == 200


@pytest.mark.parametrize(
    ("on", "call"),
    [
        ("hostname", lambda door: door.call("GET", "/v2/streaming/hostname")),
        ("token", lambda door: door.exchange(key_pair_jwt())),
        ("pipe-info", lambda door: door.call("POST", f"{door.pipe_path}:pipe-info")),
        ("open", lambda door: door.open()),
        ("append", lambda door: door.append([])),
        ("status", lambda door: door.call("POST", f"{door.pipe_path}:bulk-channel-status")),
        ("drop", lambda door: door.drop()),
        ("any", lambda door: door.open()),
    ],
)
def test_a_rule_holds_for_its_endpoint(
    door: EmulatorRig,
    emulator: EmulatorProcess,
    on: str,
    call: Any,  # noqa: ANN401 - one of several functions
) -> None:
    assert door.scoped
    emulator.fault("status", on=on, status=418)

    reply = call(door)
    emulator.fault("clear")
    after = call(door)

    assert error_code(reply) == (418, "ERR_INJECTED_418")
    assert after.status_code != 418


def test_a_request_dropped_before_was_not_processed(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("drop_before", on="append", times=1)

    with pytest.raises(requests.ConnectionError):
        door.append([row()], "1")

    assert emulator.channel_state(door.channel)["appends"] == 0
    assert emulator.state()["seen"][-1]["status"] is None
    assert door.append([row()], "1").status_code == 200


def test_a_request_dropped_after_was_processed(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("drop_after", on="append", times=1)

    with pytest.raises(requests.ConnectionError):
        door.append([row()], "1")

    assert door.committed("1")["rows_inserted"] == 1
    assert error_code(door.append([row()], "1"))[1] == "STALE_CONTINUATION_TOKEN_SEQUENCER"


def test_a_delay_holds_the_answer_back(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    emulator.fault("delay", on="open", seconds=0.2, times=1)

    started = time.monotonic()
    door.open()

    assert time.monotonic() - started >= 0.2


def test_rules_act_together_in_their_order(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    emulator.fault("delay", on="open", seconds=0.1)
    emulator.fault("status", on="open", status=500)

    started = time.monotonic()
    reply = door.open()

    assert (reply.status_code, time.monotonic() - started >= 0.1) == (500, True)


def test_while_connections_are_refused_nobody_gets_in(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened().append([row()], "1")
    emulator.fault("refuse")

    with pytest.raises(requests.ConnectionError):
        EmulatorRig(emulator.url).open()

    with pytest.raises(requests.ConnectionError):  # an open connection is cut too, after the answer
        wait_for(door.status, lambda _: False)
    assert emulator.state()["accepting"] is False
    emulator.fault("clear")
    assert door.committed("1")["rows_inserted"] == 1


def test_refused_connections_come_back_by_themselves(emulator: EmulatorProcess) -> None:
    emulator.fault("refuse", seconds=0.1)
    wait_for(lambda: emulator.state()["accepting"], lambda accepting: accepting)

    reply = EmulatorRig(emulator.url).open()

    assert reply.status_code == 200


def test_rules_can_be_posted_to_the_port_itself(emulator: EmulatorProcess) -> None:
    reply = requests.post(
        f"{emulator.url}/_emulator/faults", json=[{"do": "drop_after"}, {"do": "clear"}], timeout=10
    )

    assert (reply.status_code, reply.json()) == (200, {"faults": []})


def test_expired_tokens_are_renewed_with_the_key(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("expire_tokens")

    reply = door.append([row()], "1")
    renewed = EmulatorRig(emulator.url, channel=door.channel).open()

    assert error_code(reply) == (401, "390318")
    assert renewed.status_code == 200


def test_a_revoked_key_signs_in_nobody(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    emulator.fault("revoke_key")
    refused = door.exchange(key_pair_jwt())
    emulator.fault("restore_key")
    taken = door.exchange(key_pair_jwt())

    assert error_code(refused) == (401, "390144")
    assert taken.status_code == 200


def test_an_invalid_channel_may_still_answer_200_and_lose_the_rows(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    door.opened()
    emulator.fault("invalidate_channel", channel=door.channel)

    reply = door.append([row()], "1")

    assert reply.status_code == 200
    assert door.status()["channel_status_code"] == REOPEN
    status = door.open().json()["channel_status"]
    assert (status["channel_status_code"], status["last_committed_offset_token"]) == ("SUCCESS", None)
    door.append([row()], "1")
    assert door.committed("1")["rows_inserted"] == 1


def test_an_invalid_channel_may_refuse_appends(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("invalidate_channel", channel=door.channel, appends="refused")

    reply = door.append([row()], "1")

    assert error_code(reply) == (409, REOPEN)
    door.open()
    assert door.append([row()], "1").status_code == 200


def test_an_invalid_pipe_outlives_reopens(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("invalidate_channel", code="ERR_PIPE_IN_INVALID_STATE", reopens=1)

    codes = [door.open().json()["channel_status"]["channel_status_code"] for _ in range(2)]

    assert codes == ["ERR_PIPE_IN_INVALID_STATE", "SUCCESS"]


def test_invalidating_a_channel_discards_what_was_not_committed(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    emulator.fault("stall_commits")
    door.opened().append([row()], "1")

    emulator.fault("invalidate_channel", channel=door.channel)
    emulator.fault("resume_commits")

    assert emulator.channel_state(door.channel)["rows_uncommitted"] == 0
    assert door.open().json()["channel_status"]["last_committed_offset_token"] is None


def test_a_deleted_channel_starts_from_nothing(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened().append([row()], "1")
    door.committed("1")
    emulator.fault("delete_channel", channel=door.channel)

    refused = door.append([row()], "2")
    status = door.open().json()["channel_status"]

    assert error_code(refused)[0] == 404
    assert (status["last_committed_offset_token"], status["rows_inserted"]) == (None, 0)


def test_stalled_commits_go_on_in_order(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    emulator.fault("stall_commits")
    door.opened()
    for number in range(5):
        door.append([row(seq=number)], str(number))

    before = door.status()
    emulator.fault("resume_commits")
    door.committed("4")

    assert before["rows_inserted"] == 0
    stored = [item["seq"] for item in emulator.rows() if item["channel_name"] == door.channel]
    assert stored == [0, 1, 2, 3, 4]


def test_the_next_rows_can_be_rejected_while_the_token_moves(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    door.opened()
    emulator.fault("reject_rows", rows=2)

    door.append([row(seq=1), row(seq=2), row(seq=3)], "3")

    status = door.committed("3")
    assert (status["rows_inserted"], status["rows_error_count"]) == (1, 2)
    assert status["last_error_offset_upper_bound"] == "3"
    assert emulator.state()["faults"] == []


def test_rows_with_a_value_can_be_rejected(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened()
    emulator.fault("reject_rows", field="seq", value=2)

    door.append([row(seq=1), row(seq=2), row(seq=3)], "3")
    door.committed("3")

    stored = [item["seq"] for item in emulator.rows() if item["channel_name"] == door.channel]
    assert stored == [1, 3]


def test_a_batch_with_a_refused_row_is_400_and_smaller_batches_are_not(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    door.opened()
    emulator.fault("refuse_rows", field="seq", value=2)

    replies = [door.append([row(seq=number) for number in numbers]) for numbers in ((1, 2), (1,), (2,), (3,))]

    assert [reply.status_code for reply in replies] == [400, 200, 400, 200]
    assert error_code(replies[0]) == (400, "ERR_INVALID_ROW")


@pytest.mark.parametrize("limit", [{"max_rows": 2}, {"max_bytes": 400}])
def test_batches_can_be_too_large(
    door: EmulatorRig, emulator: EmulatorProcess, limit: dict[str, int]
) -> None:
    door.opened()
    emulator.fault("refuse_rows", **limit)

    replies = [door.append([row()] * number) for number in (3, 2)]

    assert [reply.status_code for reply in replies] == [413, 200]


@pytest.mark.parametrize(
    "rule",
    [
        5,
        {},
        {"do": "nothing"},
        {"do": ["status"]},
        {"do": "status"},
        {"do": "status", "status": 200},
        {"do": "status", "status": "503"},
        {"do": "status", "status": 503, "colour": "red"},
        {"do": "delay", "on": "door", "seconds": 1},
        {"do": "delay", "on": ["open"], "seconds": 1},
        {"do": "delay", "seconds": -1},
        {"do": "drop_after", "times": 0},
        {"do": "reject_rows", "rows": 1, "field": "seq"},
        {"do": "reject_rows"},
        {"do": "invalidate_channel", "channel": "unknown"},
        {"do": "invalidate_channel", "appends": "sometimes"},
    ],
)
def test_a_rule_that_cannot_be_kept_is_400(emulator: EmulatorProcess, rule: object) -> None:
    reply = requests.post(f"{emulator.control_url}/_emulator/faults", json=rule, timeout=10)

    assert error_code(reply) == (400, "ERR_MALFORMED_REQUEST")
    assert emulator.state()["faults"] == []


def test_the_rules_in_force_are_told_with_what_is_left(emulator: EmulatorProcess, door: EmulatorRig) -> None:
    assert door.scoped
    emulator.fault("status", on="open", status=500, times=3)
    door.open()

    rules = emulator.state()["faults"]

    assert rules == [{"do": "status", "on": "open", "status": 500, "times": 3, "left": 2}]


def test_a_request_is_seen_with_names_but_without_values(
    door: EmulatorRig, emulator: EmulatorProcess
) -> None:
    door.opened()
    before = time.monotonic_ns()
    door.append([row(badge_id="SECRET-4711")], "77-f00", retryCount="2", requestId="an-id")

    state = emulator.state()

    seen = state["seen"][-1]
    assert (seen["endpoint"], seen["method"], seen["status"]) == ("append", "POST", 200)
    assert (seen["channel"], seen["request_id"], seen["retry_count"]) == (door.channel, "an-id", "2")
    assert seen["path"].endswith("/pipes/{pipe}/channels/{channel}/rows")
    assert seen["query"] == [
        "continuationToken",
        "requestId",
        "retryCount",
        "startOffsetToken",
        "endOffsetToken",
    ]
    assert "authorization" in seen["headers"]
    assert seen["bytes"] == len(ndjson([row(badge_id="SECRET-4711")]))
    assert before <= seen["arrived_ns"] == state["last_append_ns"] <= time.monotonic_ns()
    assert "SECRET" not in str(state["seen"])
    assert door.scoped not in str(state)


def test_the_state_tells_what_a_channel_has(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    door.opened().append([row(), {}], "2")
    door.committed("2")

    channel = emulator.channel_state(door.channel)

    assert {key: channel[key] for key in ("pipe", "status_code", "offset_token", "client_sequencer")} == {
        "pipe": "SFE_BADGE_EVENTS_PIPE",
        "status_code": "SUCCESS",
        "offset_token": "2",
        "client_sequencer": 1,
    }
    assert (channel["rows_inserted"], channel["rows_error_count"], channel["rows_uncommitted"]) == (1, 1, 0)
    assert channel["max_requests_per_second"] == 2
    assert channel["max_bytes_per_second"] > 100


def test_requests_are_counted_per_endpoint(tmp_path: Path) -> None:
    with EmulatorProcess(tmp_path) as emulator:
        door = EmulatorRig(emulator.url).opened()
        door.open()
        door.status()

        counts = emulator.state()["requests"]

    assert {name: item["count"] for name, item in counts.items() if item["count"]} == {
        "token": 1,
        "open": 2,
        "status": 1,
    }
    assert counts["open"]["max_per_second"] == 2
