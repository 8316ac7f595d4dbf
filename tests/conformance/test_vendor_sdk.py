"""The vendor's SDK against the emulator: rows over HTTPS, and the documented answer to each fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.conformance_rig import ConformanceRig, Vendor

ROWS = 10_000

RETRIED: dict[str, dict[str, Any]] = {
    "408": {"status": 408},
    "429": {"status": 429, "code": "390701"},
    "500": {"status": 500, "code": "ERR_GENERAL_EXCEPTION_RETRY_REQUEST"},
    "503": {"status": 503, "code": "ERR_GENERAL_EXCEPTION_RETRY_REQUEST"},
}
RENEWED: dict[str, dict[str, Any]] = {"401": {"status": 401, "code": "390318"}}
INVALIDATED: dict[str, dict[str, Any]] = {
    "400": {"status": 400, "code": "STALE_CONTINUATION_TOKEN_SEQUENCER"},
    "404": {"status": 404, "code": "ERR_CHANNEL_DOES_NOT_EXIST_OR_IS_NOT_AUTHORIZED"},
    "409": {"status": 409, "code": "ERR_CHANNEL_MUST_BE_REOPENED"},
    "413": {"status": 413, "code": "ERR_REQUEST_TOO_LARGE"},
}
FAULTS = RETRIED | RENEWED | INVALIDATED


@pytest.fixture(scope="module")
def answers(vendor: Vendor) -> dict[str, dict[str, str]]:
    """What the SDK made of each fault, met once on the first append of a channel of its own."""
    rules = [json.dumps({"do": "status", "on": "append", "times": 1, **fault}) for fault in FAULTS.values()]
    return dict(zip(FAULTS, vendor("faults", *rules), strict=True))


def appends(stage: ConformanceRig, fault: str) -> list[dict[str, Any]]:
    """The append requests of the channel that met this fault."""
    channel = f"vendor-fault-{list(FAULTS).index(fault)}"
    return [one for one in stage.seen(channel) if one["endpoint"] == "append"]


def test_ten_thousand_rows_are_committed_each_once_and_in_order(
    stage: ConformanceRig, vendor: Vendor
) -> None:
    answer = vendor("rows", str(ROWS))

    assert answer == {"committed": str(ROWS), "rows_inserted": ROWS, "rows_error_count": 0}
    stored = [row for row in stage.emulator.rows() if row["channel_name"] == "vendor-rows"]
    assert [row["seq"] for row in stored] == list(range(1, ROWS + 1))
    assert {(row["signal_strength"], row["signal_quality"], row["direction"]) for row in stored} == {
        (-65.5, "MEDIUM", "ENTRY")
    }


@pytest.mark.parametrize("fault", RETRIED)
def test_what_is_down_for_a_moment_is_sent_again_unchanged(
    stage: ConformanceRig, answers: dict[str, dict[str, str]], fault: str
) -> None:
    refused, taken, _ = appends(stage, fault)

    assert answers[fault] == {"first": "flushed", "next": "flushed"}
    assert (refused["status"], taken["status"]) == (RETRIED[fault]["status"], 200)
    # Taken at all means the same continuation token: it is good once.
    assert taken["request_id"] == refused["request_id"]
    assert [refused["retry_count"], taken["retry_count"]] == ["0", "1"]
    assert taken["bytes"] == refused["bytes"]


def test_an_expired_token_is_renewed_once(stage: ConformanceRig, answers: dict[str, dict[str, str]]) -> None:
    refused, taken, _ = appends(stage, "401")
    seen = stage.emulator.state()["seen"]
    places = [
        next(place for place, one in enumerate(seen) if one["arrived_ns"] == arrived["arrived_ns"])
        for arrived in (refused, taken)
    ]
    between = [one["endpoint"] for one in seen[places[0] + 1 : places[1]]]

    assert answers["401"] == {"first": "flushed", "next": "flushed"}
    assert (refused["status"], taken["status"]) == (401, 200)
    assert between.count("token") == 1
    assert taken["request_id"] == refused["request_id"]


@pytest.mark.parametrize("fault", INVALIDATED)
def test_what_puts_the_position_in_doubt_ends_the_channel(
    stage: ConformanceRig, answers: dict[str, dict[str, str]], fault: str
) -> None:
    seen = appends(stage, fault)

    assert answers[fault] == {"first": "InvalidChannelError", "next": "InvalidChannelError"}
    assert [one["status"] for one in seen] == [INVALIDATED[fault]["status"]]


def test_a_table_is_sent_to_through_its_default_pipe(stage: ConformanceRig, vendor: Vendor) -> None:
    answer = vendor("table")

    assert answer == {"committed": "1", "pipe": "RAW_BADGE_EVENTS-STREAMING"}
    stored = [row for row in stage.emulator.rows() if row["channel_name"] == "vendor-table"]
    assert [(row["badge_id"], row["direction"]) for row in stored] == [("BADGE-00001", "entry")]
