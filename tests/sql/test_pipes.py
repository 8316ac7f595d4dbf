"""The pipes: the check that stops the script, the replacement, and the fall-back without functions."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.sql.columns import COLUMNS, PIPED
from agent.sql.door_events import EVENT_PIPED
from agent.sql.names import literal
from agent.sql.pipes import pipe_select
from agent.sql.scripts import script
from tests.sql.blocks import RaisedError
from tests.sql.doors import door_rows
from tests.sql.engines import PLAN, DuckDbAccount
from tests.sql.statements import kind, statements

SHOWN = f"{PLAN.database}.INFORMATION_SCHEMA.PIPES"

# The demo's, as sfe-simple-stream creates it: no column list, none of the doors' members.
DEMO_SELECT = """SELECT
    $1:badge_id::STRING AS badge_id,
    $1:user_id::STRING AS user_id,
    $1:zone_id::STRING AS zone_id,
    $1:reader_id::STRING AS reader_id,
    TO_TIMESTAMP_NTZ($1:event_timestamp::STRING) AS event_timestamp,
    COALESCE($1:signal_strength::NUMBER, -999) AS signal_strength,
    UPPER($1:direction::STRING) AS direction,
    CASE
      WHEN $1:signal_strength::NUMBER < -80 THEN 'WEAK'
      WHEN $1:signal_strength::NUMBER < -60 THEN 'MEDIUM'
      ELSE 'STRONG'
    END AS signal_quality,
    CURRENT_TIMESTAMP() AS ingestion_time,
    $1 AS raw_json
  FROM TABLE(DATA_SOURCE(TYPE => 'STREAMING'))"""


def run_check(account: DuckDbAccount) -> object:
    block = next(one for one in statements(script(PLAN, "setup")) if one.startswith("EXECUTE IMMEDIATE"))
    assert SHOWN in block
    return account.run_block(block.replace(SHOWN, "PIPES"))


def there_is(account: DuckDbAccount, definition: str, name: str = "SFE_BADGE_EVENTS_PIPE") -> None:
    text = literal(definition).replace("%", "%%")
    account.change(f"INSERT INTO PIPES VALUES ('RAW_INGESTION', '{name}', {text})")


@pytest.mark.parametrize("casts_only", [False, True])
def test_a_pipe_of_this_version_passes_the_check(account: DuckDbAccount, casts_only: bool) -> None:  # noqa: FBT001 - parameter of a test
    there_is(account, pipe_select(casts_only=casts_only))
    there_is(account, pipe_select(EVENT_PIPED), name="SFE_DOOR_EVENTS_PIPE")

    assert run_check(account) == "The pipes fill every column."


@pytest.mark.parametrize(
    "definition", [DEMO_SELECT, pipe_select(tuple(one for one in PIPED if one.name != "person_salt"))]
)
def test_a_pipe_that_does_not_fill_every_column_stops_the_script(
    account: DuckDbAccount, definition: str
) -> None:
    there_is(account, definition)
    there_is(account, pipe_select(EVENT_PIPED), name="SFE_DOOR_EVENTS_PIPE")

    with pytest.raises(RaisedError, match=r"Run badge-agent sql --only replace-pipe, then this script again"):
        run_check(account)


@pytest.mark.parametrize("missing", ["details", "actor"])
def test_a_pipe_of_door_events_that_does_not_fill_every_column_stops_the_script(
    account: DuckDbAccount, missing: str
) -> None:
    there_is(account, pipe_select())
    lacking = tuple(one for one in EVENT_PIPED if f":{missing}::" not in f"{one.expression}::")
    there_is(account, pipe_select(lacking), name="SFE_DOOR_EVENTS_PIPE")

    with pytest.raises(RaisedError, match=r"does not fill every column"):
        run_check(account)


def test_a_pipe_that_this_role_cannot_see_stops_the_script(account: DuckDbAccount) -> None:
    there_is(account, pipe_select(), name="ANOTHER")

    with pytest.raises(RaisedError, match=r"Run the script with the role that owns the pipe"):
        run_check(account)


def test_the_check_is_the_last_statement_of_its_script() -> None:
    assert statements(script(PLAN, "setup"))[-1].startswith("EXECUTE IMMEDIATE")


def test_rows_that_the_demos_pipe_loaded_are_completed(account: DuckDbAccount) -> None:
    lines = door_rows("door-1", [3.0, 2.0, 1.0])
    account.load(lines)
    expected = account.table()
    # The demo's SELECT has the direction before the signal's quality, its table after it.
    account.change(
        "UPDATE {table} SET signal_quality = direction, direction = signal_quality, event_id = NULL, "
        "agent_id = NULL, outbox_id = NULL, seq = NULL, chain = NULL, chain_before = NULL, "
        "person_salt = NULL, card_raw = NULL, boot_id = NULL"
    )
    # A pipe that lacks columns shows in this view, and nowhere at a door.
    assert [row["differing_columns"].split()[:2] for row in account.view("V_ROW_DIFFERS")] == [
        ["signal_quality", "direction"]
    ] * len(lines)

    updates = [one for one in statements(script(PLAN, "replace-pipe")) if one.startswith("UPDATE")]

    for update in updates:
        account.change(update.replace(PLAN.table, "{table}"))

    assert len(updates) == 1
    assert account.table() == expected
    assert account.view("V_DOOR_CHAIN") == account.view("V_DOOR_GAPS") == []


def test_rows_are_complete_after_the_fall_back_too(account: DuckDbAccount) -> None:
    lines = door_rows("door-1", [3.0, 2.0, 1.0])
    columns = tuple(one for one in PIPED if one.cast != "")

    account.load_into(PLAN.table, columns, lines, casts_only=True)

    assert account.view("V_DOOR_CHAIN") == account.view("V_DOOR_GAPS") == []
    times = [json.loads(line)["event_timestamp"].replace("T", " ").removesuffix("Z") for line in lines]
    assert [row["event_timestamp"] for row in account.table()] == times


# The demo's, as sfe-simple-stream creates it.
DEMO_TABLE = """CREATE TABLE {table} (
    badge_id VARCHAR(50) NOT NULL,
    user_id VARCHAR(50) NOT NULL,
    zone_id VARCHAR(50) NOT NULL,
    reader_id VARCHAR(50) NOT NULL,
    event_timestamp TIMESTAMP_NTZ NOT NULL,
    signal_strength NUMBER(5, 2),
    signal_quality VARCHAR(10),
    direction VARCHAR(10),
    ingestion_time TIMESTAMP_NTZ DEFAULT CURRENT_TIMESTAMP(),
    raw_json VARIANT
)"""


# What the first version of the script added to it.
FIRST_VERSION = (
    *("event_id VARCHAR", "agent_id VARCHAR", "outbox_id VARCHAR", "seq NUMBER(38,0)", "chain VARCHAR"),
    *("card_bits NUMBER(38,0)", "card_raw VARCHAR", "card_format VARCHAR", "facility_code NUMBER(38,0)"),
    *("card_number NUMBER(38,0)", "card_check VARCHAR", "clock VARCHAR", "time_uncertainty_ms NUMBER(38,0)"),
    *("recorded_at VARCHAR", "boot_id VARCHAR", "boot_ms NUMBER(38,0)", "replay BOOLEAN"),
    "agent_version VARCHAR",
)


@pytest.mark.parametrize("start", ["nothing", "the demo", "an earlier version", "this version"])
def test_the_tables_are_complete_whatever_was_there(account: DuckDbAccount, start: str) -> None:
    plan = replace(PLAN, schema_name=f"FROM_{start.replace(' ', '_').upper()}")
    if start in {"the demo", "an earlier version"}:
        account.change(f"CREATE SCHEMA {plan.schema}")
        account.change(DEMO_TABLE.format(table=plan.table))
    if start == "an earlier version":
        for column in FIRST_VERSION:
            account.change(f"ALTER TABLE {plan.table} ADD COLUMN {column}")
    for _ in range(2 if start == "this version" else 1):
        account.set_up(plan)

    account.load_into(plan.table, PIPED, door_rows("door-1", [2.0, 1.0]))

    assert account.columns(plan.table) - {"agent_version"} == {column.name for column in COLUMNS}
    assert [row["seq"] for row in account.rows(plan.table)] == [1, 2]
    for table in (plan.events_table, plan.purged, plan.expected_doors):
        assert account.rows(table) == []


def test_replacing_a_pipe_grants_its_use_again() -> None:
    kinds = [kind(one) or one.split()[0] for one in statements(script(PLAN, "replace-pipe"))]

    # The role may not exist yet, on an account with the demo's pipe and another role in the configuration.
    made = ["use role", "create role", "use role", *["create pipe"] * 2]
    assert kinds == [*made, *["grant privilege"] * 2, "UPDATE"]


@pytest.mark.parametrize("name", ["setup", "replace-pipe", "costs"])
def test_scripts_whose_statements_read_tables_name_the_warehouse(name: str) -> None:
    assert "Needs a warehouse. If the session has none: USE WAREHOUSE COMPUTE_WH;" in script(PLAN, name)
