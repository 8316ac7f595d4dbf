"""What the pipe makes of rows, in the table and in the counters."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlite_utils import Database

from agent.emulator import database as warehouse
from agent.emulator import row_loader
from agent.emulator.database import DATABASE_FILE
from tests.support.emulator_process import EmulatorProcess
from tests.support.emulator_rig import EmulatorRig, ndjson, row

ORIGIN = ("2026-11-20 10:00:00.000000", "PIPE", "door", "1-abc")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


def load(*rows: object) -> row_loader.Loaded:
    return row_loader.load(ndjson(rows), ORIGIN)


def stored(**changes: object) -> dict[str, Any]:
    """The table row that one good row with changes becomes."""
    loaded = load(row(**changes))
    assert loaded.last_error is None
    return dict(zip(row_loader.COLUMNS, loaded.rows[0], strict=True))


def skipped(**changes: object) -> str:
    """Why one row with changes is skipped."""
    loaded = load(row(**changes))
    assert (loaded.rows, loaded.errors) == ([], 1)
    assert loaded.last_error is not None
    return loaded.last_error


def test_every_field_of_a_swipe_finds_its_column(door: EmulatorRig, emulator: EmulatorProcess) -> None:
    fields = row(
        signal_strength=-65.5,
        direction="ENTRY",
        event_id="6f9c2a10-5f0e-4d0a-b5a9-0d5b7e0c1a11",
        agent_id="hq-lobby-1",
        outbox_id="a1b2c3",
        seq=12,
        chain_before="a1b2c3",
        chain="00112233445566778899aabbccddeeff",
        person_salt="0123456789abcdef",
        card_bits=26,
        card_raw="2F657AE",
        card_format="H10301",
        facility_code=123,
        card_number=25519,
        card_check="parity",
        clock="synced",
        time_uncertainty_ms=15,
        recorded_at="2026-11-20T10:00:00.123456Z",
        boot_id="3c1e",
        boot_ms=123456,
        replay=True,
    )
    door.opened().append([fields], "12-00112233445566778899aabbccddeeff")
    door.committed("12-00112233445566778899aabbccddeeff")

    found = next(item for item in emulator.rows() if item["channel_name"] == door.channel)

    expected = fields | {
        "event_timestamp": "2026-11-20 10:00:00.123456",
        "signal_quality": "MEDIUM",
        "replay": 1,
        "pipe_name": "SFE_BADGE_EVENTS_PIPE",
        "channel_name": door.channel,
        "offset_token": "12-00112233445566778899aabbccddeeff",
    }
    assert {name: found[name] for name in expected} == expected
    assert json.loads(found["raw_json"]) == fields
    assert datetime.fromisoformat(found["ingestion_time"])


def test_raw_json_is_kept_as_it_came() -> None:
    line = json.dumps(row(direction="entry"), indent=None, separators=(" , ", ":")).encode()

    loaded = row_loader.load(line, ORIGIN)

    assert loaded.rows[0][row_loader.COLUMNS.index("raw_json")] == line.decode()


@pytest.mark.parametrize(
    ("strength", "column", "quality"),
    [
        (None, -999, "STRONG"),
        (-80.01, -80.01, "WEAK"),
        (-80, -80, "MEDIUM"),
        (-60.5, -60.5, "MEDIUM"),
        (-60, -60, "STRONG"),
        (-65.555, -65.56, "MEDIUM"),
        ("-81", -81, "WEAK"),
        (999.99, 999.99, "STRONG"),
    ],
)
def test_signal_strength_is_not_rounded_to_whole_numbers(
    strength: object, column: float, quality: str
) -> None:
    found = stored(signal_strength=strength)

    assert (found["signal_strength"], found["signal_quality"]) == (column, quality)


@pytest.mark.parametrize(("direction", "column"), [("entry", "ENTRY"), ("Exit", "EXIT"), (None, None)])
def test_direction_is_upper_case(direction: object, column: object) -> None:
    assert stored(direction=direction)["direction"] == column


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("2026-11-20T10:00:00.123456Z", "2026-11-20 10:00:00.123456"),
        ("2026-11-20T10:00:00", "2026-11-20 10:00:00.000000"),
        ("2026-11-20T10:00:00.5Z", "2026-11-20 10:00:00.500000"),
        ("2026-11-20T10:00:00.123456+00:00", "2026-11-20 10:00:00.123456"),
        ("2026-11-20T10:00:00+02:00", "2026-11-20 10:00:00.000000"),
    ],
)
def test_a_timestamp_keeps_its_wall_clock_time(text: str, column: str) -> None:
    assert stored(event_timestamp=text)["event_timestamp"] == column


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-20 10:00:00",
        "11/20/2026 10:00:00",
        "20261120T100000",
        "2026-13-01T00:00:00Z",
        "2026-11-20",
    ],
)
def test_a_timestamp_in_another_form_is_skipped(text: str) -> None:
    assert skipped(event_timestamp=text) == "Timestamp is not recognized in EVENT_TIMESTAMP"


@pytest.mark.parametrize("name", ["badge_id", "user_id", "zone_id", "reader_id", "event_timestamp"])
def test_a_row_without_what_must_be_there_is_skipped(name: str) -> None:
    assert skipped(**{name: None}) == f"NULL result in a non-nullable column {name.upper()}"


@pytest.mark.parametrize("name", ["badge_id", "user_id", "zone_id", "reader_id"])
def test_names_are_at_most_fifty_characters(name: str) -> None:
    assert stored(**{name: "ä" * 50})[name] == "ä" * 50
    assert skipped(**{name: "x" * 51}) == f"User character length limit (50) exceeded in {name.upper()}"


@pytest.mark.parametrize(
    "changes",
    [
        {"direction": "x" * 11},
        {"signal_strength": 1000},
        {"signal_strength": 999.996},
        {"signal_strength": "strong"},
        {"signal_strength": True},
        {"seq": 2**63},
        {"seq": "1e999999"},
        {"card_number": "many"},
        {"replay": "perhaps"},
        {"replay": [True]},
    ],
)
def test_a_value_its_column_cannot_hold_is_skipped(changes: dict[str, object]) -> None:
    assert skipped(**changes)


def test_other_json_types_are_cast_as_the_pipe_casts_them() -> None:
    found = stored(badge_id=4711, card_raw={"a": [1]}, clock=True, seq="12", card_bits=26.0, replay="TRUE")

    assert (found["badge_id"], found["card_raw"], found["clock"]) == ("4711", '{"a":[1]}', "true")
    assert (found["seq"], found["card_bits"], found["replay"]) == (12, 26, True)


def test_lines_that_are_no_json_objects_are_skipped_and_counted() -> None:
    body = b'\n{"broken\n[1]\n\n5\r\n \t\nnull\n\xff\xfe\n' + ndjson([row()])

    loaded = row_loader.load(body, ORIGIN)

    assert (len(loaded.rows), loaded.errors, row_loader.count(body)) == (1, 5, 6)


def test_skipped_rows_let_the_offset_token_move_on(door: EmulatorRig) -> None:
    door.opened().append(b'{"broken\n\n[]\n' + ndjson([row()]), "4")

    status = door.committed("4")

    assert (status["rows_inserted"], status["rows_error_count"]) == (1, 2)


@given(changes=st.dictionaries(st.sampled_from(row_loader.COLUMNS), JSON, max_size=6))
def test_every_row_is_either_stored_or_counted_and_fits_the_table(changes: dict[str, object]) -> None:
    loaded = load(row() | changes)

    assert len(loaded.rows) + loaded.errors == 1
    for values in loaded.rows:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.execute(f"SELECT {','.join('?' * len(values))}", values).fetchone()


@given(lines=st.lists(st.binary(max_size=30)))
def test_any_bytes_are_rows_errors_or_blank(lines: list[bytes]) -> None:
    body = b"\n".join(lines)

    loaded = row_loader.load(body, ORIGIN)

    assert len(loaded.rows) + loaded.errors == row_loader.count(body)


@given(secret=st.text(st.characters(min_codepoint=0x100, max_codepoint=0x2FF), min_size=51, max_size=60))
def test_an_error_message_never_quotes_the_row(secret: str) -> None:
    message = load(row(badge_id=secret), row(event_timestamp=secret)).last_error

    assert message is not None
    assert secret not in message


def test_the_metrics_view_has_the_columns_of_the_demo(tmp_path: Path) -> None:
    with EmulatorProcess(tmp_path) as emulator:
        door = EmulatorRig(emulator.url).opened()
        rows = [
            row(badge_id="a", direction="entry", signal_strength=-85),
            row(badge_id="b", direction="entry", signal_strength=-50),
            row(badge_id="b", direction="exit", zone_id="Z2", signal_strength=-45),
            row(badge_id="b", direction="entry", signal_strength=-40),
        ]
        door.append(rows, "4")
        door.committed("4")

        with closing(sqlite3.connect(tmp_path / "state" / "snowflake.db")) as connection:
            metrics = list(Database(connection)["V_INGESTION_METRICS"].rows)

    assert len(metrics) == 1
    del metrics[0]["ingestion_hour"]
    assert metrics[0] == {
        "event_count": 4,
        "events_per_second": 0.0,
        "unique_badges": 2,
        "unique_zones": 2,
        "avg_signal_strength": -55.0,
        "weak_signal_count": 1,
        "weak_signal_pct": 25.0,
        "entry_count": 3,
        "exit_count": 1,
        "net_occupancy_change": 2,
    }


def test_a_table_of_an_earlier_version_gets_the_new_columns_and_keeps_its_own(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as old:
        names = [name for name in row_loader.COLUMNS if name not in {"chain_before", "person_salt"}]
        old.execute(f"CREATE TABLE RAW_BADGE_EVENTS ({', '.join(names)}, agent_version TEXT)")
        old.execute("INSERT INTO RAW_BADGE_EVENTS (event_id, agent_version) VALUES ('e-1', '0.1.0')")
        old.commit()

    database = warehouse.Database(tmp_path)
    database.commit(load(row(event_id="e-2", person_salt="0123456789abcdef")).rows, [])
    database.close()

    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as new:
        found = new.execute(
            "SELECT event_id, person_salt, person_digest, agent_version FROM RAW_BADGE_EVENTS"
        )
        assert found.fetchall() == [("e-1", None, None, "0.1.0"), ("e-2", "0123456789abcdef", None, None)]
