"""The pipe every table has without being created: rows by column name, nothing computed."""

from __future__ import annotations

from typing import Any

from agent.emulator.row_loader import DEFAULT_PIPE, load
from tests.support.emulator_process import DATABASE, SCHEMA, EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, error_code, ndjson, row, wait_for

ORIGIN = ("2026-11-20 10:00:01.000000", DEFAULT_PIPE, "door", "1")


def stored(emulator: EmulatorProcess, door: EmulatorRig) -> dict[str, Any]:
    return next(item for item in emulator.rows() if item["channel_name"] == door.channel)


def test_it_is_there_for_every_client(emulator: EmulatorProcess) -> None:
    door = EmulatorRig(emulator.url, pipe="RAW_BADGE_EVENTS-STREAMING")

    info = door.call("POST", f"{door.pipe_path}:pipe-info", json={})
    door.opened().append([row(seq=1)], "1")

    assert info.status_code == 200
    assert door.committed("1")["pipe_name"] == "RAW_BADGE_EVENTS-STREAMING"


def test_columns_without_a_member_are_null_also_where_they_have_a_default(emulator: EmulatorProcess) -> None:
    door = EmulatorRig(emulator.url, pipe=DEFAULT_PIPE).opened()

    door.append([row(direction="entry")], "1")

    door.committed("1")
    found = stored(emulator, door)
    assert found["direction"] == "entry"
    assert [found[name] for name in ("signal_strength", "signal_quality", "raw_json", "ingestion_time")] == [
        None
    ] * 4


def test_members_match_columns_whatever_their_case() -> None:
    values = {**row(signal_strength=-65.5, signal_quality="GOOD"), "SEQ": 7, "Raw_Json": {"a": 1}}

    loaded = load(ndjson([values]), ORIGIN)

    assert loaded.errors == 0
    assert {-65.5, "GOOD", 7, '{"a":1}', "door"} <= set(loaded.rows[0])


def test_the_rules_of_the_table_hold_here_too() -> None:
    rows = [row(badge_id=None), row(user_id="x" * 51), row(direction="x" * 11), row(ingestion_time="soon")]

    loaded = load(ndjson(rows), ORIGIN)

    assert (len(loaded.rows), loaded.errors) == (0, 4)


def test_rows_for_the_table_itself_go_through_it(emulator: EmulatorProcess, door: EmulatorRig) -> None:
    path = f"/v2/streaming/data/databases/{DATABASE}/schemas/{SCHEMA}/tables/RAW_BADGE_EVENTS/rows"

    reply = door.call("POST", path, data=ndjson([row(event_id="by-table")]))

    assert reply.status_code == 200
    found = wait_for(lambda: [item for item in emulator.rows() if item["event_id"] == "by-table"], bool)
    assert (found[0]["pipe_name"], found[0]["signal_quality"]) == (DEFAULT_PIPE, None)


def test_a_channel_has_a_session_until_it_is_opened_again(door: EmulatorRig) -> None:
    door.opened()

    sessions = [door.append([row()]).headers["X-Snowflake-Session"] for _ in range(2)]
    door.open()
    after = door.append([row()]).headers["X-Snowflake-Session"]

    assert sessions[0] == sessions[1] != after


def test_files_are_not_taken_and_it_says_what_is(door: EmulatorRig) -> None:
    door.opened()

    reply = door.call("POST", f"{door.rows_path}/filebuffer", json={})

    assert error_code(reply) == (400, "ERR_FILE_MODE_NOT_SUPPORTED")
    assert "1 MiB" in reply.json()["message"]
