"""The pipe of door events: into a table of its own, and what it does not load."""

from __future__ import annotations

import json

import pytest

from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig

EVENTS_PIPE, TABLE = "SFE_DOOR_EVENTS_PIPE", "RAW_DOOR_EVENTS"


def event(**changes: object) -> dict[str, object]:
    """A good row; a change to None leaves the member out."""
    members: dict[str, object] = {
        "event_id": "e",
        "agent_id": "door",
        "kind": "start",
        "at": "2026-11-20T10:00:00.123456Z",
        "details": {"version": "1.0", "pending": 2},
    }
    return {name: value for name, value in (members | changes).items() if value is not None}


def test_rows_go_to_the_table_of_door_events(emulator: EmulatorProcess) -> None:
    door = EmulatorRig(emulator.url, pipe=EVENTS_PIPE).opened()

    door.append([event(seq=1, actor="anna"), event(seq="2", replay="true")], "2-c")
    door.committed("2-c")

    first, second = [row for row in emulator.rows(TABLE) if row["channel_name"] == door.channel]
    assert (first["kind"], first["actor"], first["seq"]) == ("start", "anna", 1)
    assert first["event_timestamp"] == "2026-11-20 10:00:00.123456"
    assert json.loads(first["details"]) == {"version": "1.0", "pending": 2}
    assert json.loads(first["raw_json"])["at"] == "2026-11-20T10:00:00.123456Z"
    assert (second["seq"], second["replay"]) == (2, 1)
    # Of this channel: the rows of a test before may be committed only now.
    assert [row for row in emulator.rows() if row["channel_name"] == door.channel] == []


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (event(kind=None), "KIND"),
        (event(agent_id=None), "AGENT_ID"),
        (event(at=None), "EVENT_TIMESTAMP"),
        (event(at="yesterday"), "EVENT_TIMESTAMP"),
        (event(seq="many"), "SEQ"),
        ("no object", "JSON"),
    ],
)
def test_what_the_pipe_cannot_load_is_counted(emulator: EmulatorProcess, bad: object, message: str) -> None:
    door = EmulatorRig(emulator.url, pipe=EVENTS_PIPE).opened()

    door.append([event(), bad], "1-c")
    status = door.committed("1-c")

    assert status["rows_error_count"] == 1
    assert message in status["last_error_message"]
