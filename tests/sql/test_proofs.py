"""What V_DOOR_CHAIN, V_DOOR_GAPS and V_ROW_DIFFERS find: every column altered in turn, and ends deleted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agent.rows import as_replay
from agent.sql.columns import COLUMNS
from tests.sql.doors import Door, door_rows
from tests.sql.engines import PLAN, DuckDbAccount

# For each column another value than that of any row, as SQL.
ALTERED = {
    "badge_id": "'123-9'",
    "user_id": "'USR-9'",
    "zone_id": "'ZONE-9'",
    "reader_id": "'RDR-9'",
    "event_timestamp": "'2001-01-01 00:00:00'",
    "signal_strength": "-50",
    "signal_quality": "'WEAK'",
    "direction": "'EXIT'",
    "raw_json": "OBJECT_CONSTRUCT('badge_id', '123-9')",
    "event_id": "'another'",
    "agent_id": "'another'",
    "outbox_id": "'another'",
    "seq": "9",
    "chain_before": "'another'",
    "chain": "'another'",
    "person_salt": "'another'",
    "card_bits": "27",
    "card_raw": "'FFFFFFF'",
    "card_format": "'another'",
    "facility_code": "9",
    "card_number": "9",
    "card_check": "'another'",
    "clock": "'another'",
    "time_uncertainty_ms": "9",
    "recorded_at": "'2001-01-01T00:00:00.000000Z'",
    "boot_id": "'another'",
    "boot_ms": "9",
    "replay": "TRUE",
    "ingestion_time": "'2001-01-01 00:00:00'",
    "person_digest": "'another'",
}

# Not in the chain; see agent/sql/views/chain.py.
COMPARED_ONLY = {
    *("signal_strength", "signal_quality", "raw_json", "card_format", "facility_code", "card_number"),
    *("card_check", "clock", "time_uncertainty_ms", "replay", "chain_before"),
}
# Written by the account itself; a digest beside a salt is not read.
UNCHECKED = {"ingestion_time", "person_digest"}


def problems(account: DuckDbAccount) -> list[tuple[int, str]]:
    return [(row["seq"], row["problem"]) for row in account.view("V_DOOR_CHAIN")]


def gaps(account: DuckDbAccount) -> list[tuple[int, int]]:
    return [(row["first_missing_seq"], row["last_missing_seq"]) for row in account.view("V_DOOR_GAPS")]


def lived(swipes: int = 6, *, agent_id: str = "door-1") -> Door:
    door = Door(agent_id)
    for number in range(swipes, 0, -1):
        door.swipe(60.0 * number)
    return door


def test_every_column_of_the_table_is_altered_below() -> None:
    assert set(ALTERED) == {column.name for column in COLUMNS}


def test_every_altered_column_is_found(account: DuckDbAccount) -> None:
    """One door for each column, named after it: its second row is altered there."""
    account.load([line for name in ALTERED for line in lived(3, agent_id=name).sent])

    for name, value in ALTERED.items():
        account.change(f"UPDATE {{table}} SET {name} = {value} WHERE seq = 2 AND agent_id = '{name}'")

    differing = {door(row): row["differing_columns"].split() for row in account.view("V_ROW_DIFFERS")}
    assert set(differing) == set(ALTERED) - UNCHECKED
    assert all(name in found for name, found in differing.items() if name != "raw_json")
    assert {door(row) for row in account.view("V_DOOR_CHAIN")} == set(ALTERED) - UNCHECKED - COMPARED_ONLY


def door(row: Mapping[str, Any]) -> str:
    """The door of a row, also where its name is what was altered."""
    return "agent_id" if row["agent_id"] == "another" else str(row["agent_id"])


def test_the_time_of_a_corrected_row_is_not_in_the_chain(account: DuckDbAccount) -> None:
    door = lived(1)
    door.swipe(60.0, trusted=False, corrected_us=1_772_366_400_000_000)
    account.load(door.sent)

    account.change("UPDATE {table} SET event_timestamp = '2001-01-01 00:00:00' WHERE seq = 2")

    assert problems(account) == []
    assert [row["differing_columns"] for row in account.view("V_ROW_DIFFERS")] == ["event_timestamp"]


def test_a_raw_json_that_is_altered_beyond_recognition_is_listed(account: DuckDbAccount) -> None:
    account.load(lived(2).sent)

    account.change("UPDATE {table} SET raw_json = OBJECT_CONSTRUCT('seq', 'x', 'boot_ms', '') WHERE seq = 1")

    assert [row["seq"] for row in account.view("V_ROW_DIFFERS")] == [1]


def test_rows_that_arrived_as_sent_do_not_differ(account: DuckDbAccount) -> None:
    door = lived(2)
    door.swipe(60.0, trusted=False, corrected_us=1_772_366_400_000_000)
    door.swipe_of_an_old_agent()
    strange = json.dumps(
        json.loads(door.sent[0]) | {"direction": "exit", "signal_strength": -65.55, "seq": 7}
    )

    account.load([*door.sent, as_replay(door.sent[0]), strange.encode()])

    assert account.view("V_ROW_DIFFERS") == []


def purged(account: DuckDbAccount, door: Door, up_to: int, chain: str) -> None:
    account.change(
        f"INSERT INTO {PLAN.purged} (agent_id, outbox_id, up_to_seq, chain) "
        f"VALUES ('{door.agent_id}', '{door.outbox_id}', {up_to}, '{chain}')"
    )


# --- heartbeats -------------------------------------------------------------------------------


def test_a_heartbeat_that_fits_its_rows_is_no_problem(account: DuckDbAccount) -> None:
    door = lived()
    account.load(door.sent)

    account.report(door.heartbeat())

    assert (gaps(account), problems(account)) == ([], [])
    [anchor] = account.view("V_ANCHORS")
    last = json.loads(door.sent[-1])
    assert (anchor["outbox_id"], anchor["seq"], anchor["chain"]) == (door.outbox_id, 6, last["chain"])
    assert anchor["signature"] == "c2ln"
    assert anchor["signed_at"].endswith("Z")


def test_rows_deleted_at_the_end_show_with_a_heartbeat_and_not_without(account: DuckDbAccount) -> None:
    door = lived()
    account.load(door.sent)
    account.change("DELETE FROM {table} WHERE seq > 4")
    before = (gaps(account), problems(account))

    account.report(door.heartbeat())

    assert before == ([], [])
    assert (gaps(account), problems(account)) == ([(5, 6)], [(6, "missing up to here")])


def test_all_rows_of_a_door_deleted_show_with_a_heartbeat(account: DuckDbAccount) -> None:
    door = lived(3)

    account.report(door.heartbeat())

    assert (gaps(account), problems(account)) == ([(1, 3)], [(3, "missing up to here")])
    assert account.view("V_DOOR_GAPS")[0]["agent_id"] == "door-1"


def test_rows_that_the_door_had_not_delivered_are_not_missing(account: DuckDbAccount) -> None:
    door = lived()
    account.load(door.sent[:4])

    account.report(door.heartbeat(pending=2))

    assert (gaps(account), problems(account)) == ([], [])


def test_more_pending_rows_than_this_outbox_has_are_no_claim(account: DuckDbAccount) -> None:
    door = lived(2)

    account.report(door.heartbeat(pending=5))

    assert (gaps(account), problems(account)) == ([], [])


def test_a_rewritten_history_does_not_fit_the_heartbeat(account: DuckDbAccount) -> None:
    """The chain has no secret: all rows of a door can be made up, but not what it signed."""
    door = lived()
    account.report(door.heartbeat())
    forged = door_rows("door-1", [60.0 * number for number in range(6, 0, -1)])

    account.load(
        [line.replace(json.loads(line)["outbox_id"].encode(), door.outbox_id.encode()) for line in forged]
    )

    found = problems(account)
    assert (6, "differs from a heartbeat") in found


def test_a_purge_up_to_a_heartbeat_and_one_beyond_are_no_problem(account: DuckDbAccount) -> None:
    door = lived(4)
    account.report(door.heartbeat())
    chain = json.loads(door.sent[3])["chain"]

    for up_to in (4, 9):
        purged(account, door, up_to, chain)

        assert (gaps(account), problems(account)) == ([], [])


def test_a_purged_chain_that_the_door_did_not_sign_is_found(account: DuckDbAccount) -> None:
    door = lived(4)
    account.report(door.heartbeat())

    purged(account, door, 4, "0" * 32)

    assert problems(account) == [(4, "differs from a heartbeat")]


def test_pending_rows_of_a_renamed_agent_are_no_gap(account: DuckDbAccount) -> None:
    """They keep the agent_id under which they were read, in the outbox of the new name."""
    door = Door("old-name")
    door.swipe(30.0)
    door.agent_id = "new-name"
    door.swipe(20.0)

    account.load(door.sent)

    assert {row["agent_id"] for row in account.table()} == {"old-name", "new-name"}
    assert (gaps(account), problems(account)) == ([], [])
