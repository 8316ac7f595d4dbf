"""The views over rows that the agent made: what is missing, doubled, altered, late or silent is found."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.emulator.row_loader import COLUMNS as EMULATOR_COLUMNS
from agent.emulator.views import SHOWN
from agent.rows import as_replay, sample
from agent.sql.columns import COLUMNS, PIPED
from tests.sql.doors import HOUR_S, door_rows, moved
from tests.sql.engines import DuckDbAccount, EmulatorFile, Engine
from tests.support.paths import ROOT

SHARED_VIEWS = ["V_BADGE_EVENTS", *(view.name for view in SHOWN)]
MINUTES = [60.0 * minute for minute in range(6, 0, -1)]


def problems(engine: Engine) -> list[tuple[int, str]]:
    return [(row["seq"], row["problem"]) for row in engine.view("V_DOOR_CHAIN")]


def gaps(engine: Engine) -> list[tuple[int, int, int]]:
    return [
        (row["first_missing_seq"], row["last_missing_seq"], row["missing_count"])
        for row in engine.view("V_DOOR_GAPS")
    ]


def test_what_a_door_sent_is_there_and_nothing_is_wrong_with_it(engine: Engine) -> None:
    lines = door_rows("door-1", MINUTES)

    engine.load(lines)

    events = sorted(engine.view("V_BADGE_EVENTS"), key=lambda row: row["seq"])
    sent = [json.loads(line) for line in lines]
    for name in ("badge_id", "event_id", "agent_id", "outbox_id", "seq", "chain", "person_salt", "card_raw"):
        assert [row[name] for row in events] == [members[name] for members in sent]
    for name in ("chain_before", "recorded_at", "replay", "person_digest"):
        assert [row[name] for row in events] == [members.get(name) for members in sent]
    assert [row["event_timestamp"] for row in events] == [
        members["event_timestamp"].replace("T", " ").removesuffix("Z") for members in sent
    ]
    assert (gaps(engine), problems(engine)) == ([], [])


def test_missing_rows_are_found_also_the_first_ones(engine: Engine) -> None:
    lines = door_rows("door-1", MINUTES)
    other = door_rows("door-2", MINUTES)

    engine.load([lines[2], lines[5], *other])

    assert gaps(engine) == [(1, 2, 2), (4, 5, 2)]
    assert problems(engine) == [(3, "row before is missing"), (6, "row before is missing")]


def test_the_times_around_a_gap_are_told(engine: Engine) -> None:
    lines = door_rows("door-1", MINUTES)

    engine.load([lines[0], lines[5]])

    gap = engine.view("V_DOOR_GAPS")[0]
    times = sorted(row["event_timestamp"] for row in engine.table())
    assert [gap["last_event_before"], gap["first_event_after"]] == times


def test_a_replayed_row_is_no_second_event(engine: Engine) -> None:
    lines = door_rows("door-1", MINUTES)

    engine.load([*map(as_replay, lines), *lines])

    events = engine.view("V_BADGE_EVENTS")
    assert len(events) == len(lines)
    assert not any(row["replay"] for row in events)
    assert (gaps(engine), problems(engine)) == ([], [])


def test_a_row_that_only_the_replay_brought_closes_its_gap(engine: Engine) -> None:
    lines = door_rows("door-1", MINUTES)

    engine.load([*lines[:3], *lines[4:], as_replay(lines[3])])

    assert (gaps(engine), problems(engine)) == ([], [])
    assert len(engine.view("V_BADGE_EVENTS")) == len(lines)


def test_events_that_moved_to_a_new_outbox_are_one_event_each_and_no_gap(engine: Engine) -> None:
    lines = door_rows("door-1", MINUTES)

    chain_before = json.loads(lines[1])["chain"]
    engine.load([*lines[:4], *moved(lines[2:], "0123456789ab", chain_before)])

    assert len(engine.view("V_BADGE_EVENTS")) == len(lines)
    assert (gaps(engine), problems(engine)) == ([], [])


@pytest.mark.parametrize(
    "assignment",
    [
        "event_id = 'another'",
        "agent_id = 'another'",
        "badge_id = '123-9'",
        "user_id = 'U-9'",
        "zone_id = 'ZONE-SERVER-B1'",
        "direction = 'EXIT'",
        "direction = NULL",
        "event_timestamp = '2026-01-01 00:00:00.000000'",
        "person_salt = '0000000000000000'",
        "person_salt = NULL, person_digest = '00'",
        "reader_id = 'RDR-102'",
        "card_bits = 27",
        "card_raw = '0000001'",
        "recorded_at = '2026-01-01T00:00:00.000000Z'",
        "boot_id = 'another'",
        "boot_ms = boot_ms + 1",
        "card_raw = NULL",
    ],
)
def test_an_altered_row_does_not_follow_from_the_row_before(engine: Engine, assignment: str) -> None:
    engine.load(door_rows("door-1", MINUTES))

    engine.change(f"UPDATE {{table}} SET {assignment} WHERE seq = 4")

    assert problems(engine) == [(4, "altered or reordered")]


@pytest.mark.parametrize("chain", ["'00000000000000000000000000000000'", "'0'", "''", "NULL"])
def test_an_altered_chain_breaks_the_row_and_the_next(engine: Engine, chain: str) -> None:
    engine.load(door_rows("door-1", MINUTES))

    engine.change(f"UPDATE {{table}} SET chain = {chain} WHERE seq = 2")

    assert problems(engine) == [(2, "altered or reordered"), (3, "altered or reordered")]


def test_a_chain_cut_to_the_length_of_an_older_agent_hides_nothing(engine: Engine) -> None:
    engine.load(door_rows("door-1", MINUTES))

    engine.change("UPDATE {table} SET chain = SUBSTR(chain, 1, 16), badge_id = 'X' WHERE seq >= 4")

    assert (4, "altered or reordered") in problems(engine)


def test_rows_that_changed_places_are_found(engine: Engine) -> None:
    engine.load(door_rows("door-1", MINUTES))

    engine.change("UPDATE {table} SET seq = CASE seq WHEN 3 THEN 4 ELSE 3 END WHERE seq IN (3, 4)")

    assert {seq for seq, _ in problems(engine)} == {3, 4, 5}


def test_two_copies_that_differ_are_found_although_both_may_look_right(engine: Engine) -> None:
    lines = door_rows("door-1", MINUTES)
    forged = lines[5].replace(b'"card_raw":"', b'"card_raw":"1')

    engine.load([*lines, forged])

    assert problems(engine) == [(6, "copies differ"), (6, "copies differ")]


def test_a_door_is_silent_when_it_pauses_longer_than_it_ever_did(engine: Engine) -> None:
    hourly = [HOUR_S * hours + 60 for hours in range(60, 50, -1)]
    weekend = [HOUR_S * hours for hours in (200, 130, 51)]

    engine.load(door_rows("hourly", hourly))
    engine.load(door_rows("weekend", weekend))
    engine.load(door_rows("alive", MINUTES))

    found = {row["agent_id"]: row for row in engine.view("V_DOOR_STATUS")}
    assert {name: row["status"] for name, row in found.items()} == {
        "hourly": "SILENT",
        "weekend": "OK",
        "alive": "OK",
    }
    assert (found["hourly"]["silent_hours"], found["hourly"]["expected_hours"]) == (51.0, 24.0)
    assert found["weekend"]["expected_hours"] == 79.0
    assert engine.view("V_DOOR_STATUS")[0]["agent_id"] == "hourly"


def test_a_door_has_its_last_event_and_all_its_outboxes(engine: Engine) -> None:
    engine.load(door_rows("door-1", [300.0, 200.0]))
    engine.load(door_rows("door-1", [100.0]))

    status = engine.view("V_DOOR_STATUS")

    newest = max(row["event_timestamp"] for row in engine.table())
    assert [(row["event_count"], row["outbox_count"], row["last_event_at"]) for row in status] == [
        (3, 2, newest)
    ]


@pytest.mark.parametrize(
    ("ago", "status", "late"), [(0, "HEALTHY", 0), (180, "WARNING", 1), (600, "STALE", 1)]
)
def test_late_rows_are_found(engine: Engine, ago: float, status: str, late: int) -> None:
    engine.load(door_rows("door-1", [ago, 0.0]))

    latency = engine.view("V_END_TO_END_LATENCY")

    assert [(row["agent_id"], row["status"], row["late_count"]) for row in latency] == [
        ("door-1", status, late)
    ]
    assert ago <= latency[0]["longest_seconds"] < ago + 60


def test_a_time_nobody_vouches_for_makes_no_row_late_and_no_door_silent(engine: Engine) -> None:
    in_1970 = [1.7e9, 1.7e9 - 10]

    engine.load(door_rows("door-1", in_1970, trusted=False))

    assert engine.view("V_END_TO_END_LATENCY") == []
    assert [row["status"] for row in engine.view("V_DOOR_STATUS")] == ["OK"]


def test_sample_events_are_events_but_no_door(engine: Engine) -> None:
    names = {"badge_id": "BADGE-001", "user_id": "U", "zone_id": "Z", "reader_id": "R"}
    line = sample(names, -65.5, event_id="e", agent_id="door-1-sample", wall_us=1_772_366_400_000_000)

    engine.load([line])

    assert [row["signal_strength"] for row in engine.view("V_BADGE_EVENTS")] == [-65.5]
    assert engine.view("V_DOOR_STATUS") == engine.view("V_DOOR_GAPS") == engine.view("V_DOOR_CHAIN") == []


def test_events_of_other_senders_go_by_badge_reader_and_time(engine: Engine) -> None:
    row = {
        "badge_id": "BADGE-0001",
        "user_id": "USR-001",
        "zone_id": "ZONE-LOBBY-1",
        "reader_id": "RDR-101",
        "event_timestamp": "2026-03-01T12:00:00",
        "direction": "exit",
    }
    later = row | {"event_timestamp": "2026-03-01T12:00:01"}

    engine.load([json.dumps(one).encode() for one in (row, row, later)])

    assert len(engine.view("V_BADGE_EVENTS")) == 2
    assert {one["direction"] for one in engine.view("V_BADGE_EVENTS")} == {"EXIT"}


# --- the two engines are one ------------------------------------------------------------------


def comparable(engine: Engine) -> dict[str, list[dict[str, Any]]]:
    """Everything the views show, but for the order of rows that the views leave open."""
    return {name: sorted(engine.view(name), key=str) for name in SHARED_VIEWS}


@given(seed=st.integers(0, 2**32))
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_engines_show_the_same_of_rows_that_went_through_a_lot(
    account: DuckDbAccount, tmp_path: Path, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311 - not a secret
    # Well inside their minute and their tenth of an hour, so that a slow test moves nothing over an edge.
    lines = door_rows("door-1", [HOUR_S * hours + 33 for hours in range(9, 0, -1)])
    lines += door_rows("door-2", [400.0, 150.0, 1.0])
    kept = [line for line in lines if chance.random() < 0.8]
    mistreated = [line.replace(b"RDR-101", b"RDR-666") if chance.random() < 0.2 else line for line in kept]
    mistreated += [as_replay(line) for line in lines if chance.random() < 0.3]
    chance.shuffle(mistreated)
    file = EmulatorFile(tmp_path / f"emulator-{seed}")
    account.change("DELETE FROM {table}")

    for engine in (account, file):
        engine.load(mistreated)
        # Of one moment, a little later than the newest row: the two loads were not.
        engine.change("UPDATE {table} SET ingestion_time = (SELECT MAX(event_timestamp) FROM {table})")

    shown = [comparable(engine) for engine in (account, file)]
    file.close()
    for name in SHARED_VIEWS:
        assert _without_own(shown[0][name]) == _roughly(_without_own(shown[1][name]))


def _without_own(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # JSON as it was sent, and as the engine writes it; a boolean, which SQLite has as a number.
    return [
        {name: value for name, value in row.items() if name not in ("raw_json", "replay")} for row in rows
    ]


def _roughly(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # The last digit of a rounded number may be rounded either way.
    return [
        {
            name: pytest.approx(value, abs=0.011) if isinstance(value, float) else value
            for name, value in row.items()
        }
        for row in rows
    ]


@pytest.mark.parametrize("strength", [None, -999, -80.004, -80, -79.99, -65.5, -60, -59.9, 0, "-70.25"])
def test_both_pipes_make_the_same_of_a_strength(
    account: DuckDbAccount, emulator_file: EmulatorFile, strength: object
) -> None:
    row = {
        "badge_id": "b",
        "user_id": "u",
        "zone_id": "z",
        "reader_id": "r",
        "event_timestamp": "2026-03-01T12:00:00.123456Z",
        "signal_strength": strength,
    }
    for engine in (account, emulator_file):
        engine.load([json.dumps(row).encode()])

    found = [engine.table()[0] for engine in (account, emulator_file)]

    assert found[0]["signal_strength"] == found[1]["signal_strength"]
    assert found[0]["signal_quality"] == found[1]["signal_quality"]
    assert found[0]["event_timestamp"] == found[1]["event_timestamp"]


@pytest.mark.parametrize("direction", ["ENTRY", "exit", "Entry", "Inward", "", None])
def test_both_pipes_make_the_same_of_a_direction(
    account: DuckDbAccount, emulator_file: EmulatorFile, direction: str | None
) -> None:
    row = json.loads(door_rows("door-1", [0.0])[0]) | {"direction": direction}
    for engine in (account, emulator_file):
        engine.load([json.dumps(row).encode()])

    found = [engine.table()[0]["direction"] for engine in (account, emulator_file)]

    upper = str(direction).upper()
    assert found == [upper if upper in {"ENTRY", "EXIT"} else direction] * 2


def test_the_view_in_the_emulators_file_is_the_accounts(emulator_file: EmulatorFile) -> None:
    emulator_file.load(door_rows("door-1", MINUTES))
    emulator_file.change("UPDATE {table} SET signal_strength = -85, signal_quality = 'WEAK' WHERE seq = 1")

    stored = emulator_file.rows("V_INGESTION_METRICS")
    rendered = emulator_file.view("V_INGESTION_METRICS")

    assert len(stored) == len(rendered) == 1
    assert stored[0].pop("ingestion_hour") == rendered[0].pop("ingestion_hour")[:19]
    assert stored == rendered


def test_the_table_the_emulator_and_the_agent_have_the_same_columns() -> None:
    names = {column.name for column in COLUMNS}
    sent = set(json.loads(door_rows("door-1", [0.0])[0]))

    assert sent <= names
    assert set(EMULATOR_COLUMNS) == names - {"person_digest"} | {"pipe_name", "channel_name", "offset_token"}


def test_the_table_of_the_row_in_the_readme_has_every_member() -> None:
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("| members | content |") :].partition("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split("|")[1])}

    # What the pipe computes is no member of a row.
    assert named == {column.name for column in PIPED} - {"signal_quality", "raw_json"}


def test_a_skipped_row_is_shown_with_its_reason_and_number(account: DuckDbAccount) -> None:
    details = {
        "pipe_name": "SFE_BADGE_EVENTS_PIPE",
        "channel_name": "door-1-0123456789ab",
        "offset_token_lower_bound": "7-a",
        "offset_token_upper_bound": "9-b",
    }
    metadata = {"service": "snowpipe_streaming", "error_message": "'123-45' fits 'not'", "details": details}
    payload = {"agent_id": "door-1", "seq": 8, "event_id": "e-8"}

    account.fail(json.dumps(metadata), json.dumps({"$1": json.dumps(payload)}))
    account.fail(json.dumps(metadata), json.dumps({"$1": "{not json"}))
    account.fail(json.dumps({"error_message": "of an INSERT"}), "{}")

    shown = account.view("V_CHANNEL_ERRORS")
    assert [row["error_message"] for row in shown] == ["'...' fits '...'"] * 2
    assert {(row["agent_id"], row["seq"], row["event_id"]) for row in shown} == {
        ("door-1", 8, "e-8"),
        (None, None, None),
    }
    assert {(row["channel_name"], row["last_offset_token"]) for row in shown} == {
        ("door-1-0123456789ab", "9-b")
    }
