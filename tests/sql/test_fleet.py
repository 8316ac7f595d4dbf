"""V_FLEET, V_OPERATOR_ACTIONS, V_LATENCY_DAILY, V_DUPLICATES and V_CHANNEL_ERRORS."""

from __future__ import annotations

import json

import pytest

from agent import event_rows
from agent.door_event import DoorEvent
from agent.rows import RowPosition, as_replay, sample
from agent.sql.scripts import script
from tests.sql.doors import HOUR_S, Door, door_rows, moved
from tests.sql.engines import PLAN, DuckDbAccount
from tests.sql.statements import statements
from tests.support.swipes import NOON_US, instant

NAMES = {"badge_id": "B", "user_id": "U", "zone_id": "Z", "reader_id": "R"}


def expect(account: DuckDbAccount, *agents: str) -> None:
    for agent_id in agents:
        account.change(f"INSERT INTO {PLAN.expected_doors} VALUES ('{agent_id}', 'HQ', NULL)")


def fleet(account: DuckDbAccount) -> dict[str, str]:
    return {row["agent_id"]: row["status"] for row in account.view("V_FLEET")}


def test_every_door_is_there_with_its_reason(account: DuckDbAccount) -> None:
    expect(account, "never", "fine")
    account.load(door_rows("swipes-only", [30.0]))
    account.report(
        Door("fine").heartbeat(readers_open=2),
        Door("unplugged").heartbeat(readers_lost=1),
        Door("clockless").heartbeat(clock="estimated"),
        Door("behind").heartbeat(oldest_pending_seconds=3000),
    )

    assert fleet(account) == {
        "never": "NEVER SEEN",
        "fine": "OK",
        "swipes-only": "NO HEARTBEATS",
        "unplugged": "READER LOST",
        "clockless": "CLOCK",
        "behind": "PENDING",
    }
    rows = account.view("V_FLEET")
    assert rows[-1]["agent_id"] == "fine"
    assert {row["agent_id"] for row in rows if row["is_expected"]} == {"never", "fine"}
    assert (rows[-1]["site"], rows[-1]["version"], rows[-1]["readers_open"]) == ("HQ", "0.2.0", 2.0)


def test_a_door_without_heartbeats_is_silent_when_its_swipes_are_missed(account: DuckDbAccount) -> None:
    account.load(door_rows("gone", [50 * HOUR_S, 49 * HOUR_S]))
    account.load(door_rows("rare", [80 * HOUR_S, 30 * HOUR_S]))

    assert fleet(account) == {"gone": "SILENT", "rare": "NO HEARTBEATS"}
    assert [row["agent_id"] for row in account.view("V_FLEET")] == ["gone", "rare"]


@pytest.mark.parametrize(
    ("minutes", "interval", "status"), [(170, None, "OK"), (190, None, "SILENT"), (20, 5, "SILENT")]
)
def test_a_door_is_silent_after_three_intervals(
    account: DuckDbAccount, minutes: int, interval: int | None, status: str
) -> None:
    account.report(Door("door-1").heartbeat(interval_minutes=interval))

    account.change(
        f"UPDATE {PLAN.events_table} SET ingestion_time = DATEADD('minute', -{minutes}, SYSDATE())"
    )

    assert fleet(account) == {"door-1": status}


def test_the_last_heartbeat_counts(account: DuckDbAccount) -> None:
    door = Door("door-1")
    account.report(door.heartbeat(seconds_ago=60, readers_lost=1))

    account.report(door.heartbeat())

    assert fleet(account) == {"door-1": "OK"}


@pytest.mark.parametrize("member", ["seq", "pending", "interval_minutes", "readers_lost"])
def test_a_heartbeat_with_a_wrong_value_fails_no_view(account: DuckDbAccount, member: str) -> None:
    """Whoever may insert could otherwise blind the views of the whole fleet with one row."""
    account.load(door_rows("door-1", [2.0, 1.0]))

    wrong = json.loads(Door("door-1").heartbeat())
    wrong["details"][member] = "none"

    account.report(json.dumps(wrong).encode(), Door("door-2").heartbeat())

    assert fleet(account) == {"door-1": "OK", "door-2": "OK"}
    assert [row["agent_id"] for row in account.view("V_ANCHORS")].count("door-2") == 1
    assert account.view("V_DOOR_GAPS") == account.view("V_DOOR_CHAIN") == []


def test_a_row_that_was_skipped_for_its_number_is_listed(account: DuckDbAccount) -> None:
    account.fail('{"service": "snowpipe_streaming"}', json.dumps({"$1": '{"agent_id": "d", "seq": "x"}'}))

    assert [(row["agent_id"], row["seq"]) for row in account.view("V_CHANNEL_ERRORS")] == [("d", None)]


# --- traffic ----------------------------------------------------------------------------------


def test_latency_by_day_has_percentiles_and_the_share_within_the_target(account: DuckDbAccount) -> None:
    account.load(door_rows("door-1", [float(seconds) for seconds in range(99, -1, -1)]))

    [day] = account.view("V_LATENCY_DAILY")

    assert (day["event_count"], day["door_count"]) == (100, 1)
    # Each swipe arrived when it was loaded: 0 to 99 seconds after it, and what the load took.
    took = day["p50_seconds"] - 49.5
    assert 0 <= took < 30
    assert day["p95_seconds"] == pytest.approx(94.05 + took, abs=0.1)
    assert day["p99_seconds"] == pytest.approx(98.01 + took, abs=0.1)
    assert day["within_target_pct"] == pytest.approx(61 - took, abs=1.1)


def test_latency_leaves_out_what_has_no_time(account: DuckDbAccount) -> None:
    account.load(door_rows("door-1", [1.7e9], trusted=False))
    account.load([sample(NAMES, -60, event_id="e", agent_id="d-sample", wall_us=1_772_366_400_000_000)])
    account.load(door_rows("door-2", [10.0]))
    account.change("UPDATE {table} SET person_digest = 'd' WHERE agent_id = 'door-2'")

    assert account.view("V_LATENCY_DAILY") == account.view("V_END_TO_END_LATENCY") == []


def test_sample_events_are_no_traffic(account: DuckDbAccount) -> None:
    account.load(door_rows("door-1", [10.0]))
    account.load([sample(NAMES, -60, event_id="e", agent_id="d-sample", wall_us=1_772_366_400_000_000)])

    assert [row["event_count"] for row in account.view("V_INGESTION_METRICS")] == [1]


def test_copies_are_counted_by_outbox_and_replay(account: DuckDbAccount) -> None:
    lines = door_rows("door-1", [30.0, 20.0, 10.0])
    restored = moved(lines[2:], "restored-one", json.loads(lines[1])["chain"])

    account.load([*lines, as_replay(lines[0]), as_replay(lines[0]), *restored])

    found = {row["event_id"]: row for row in account.view("V_DUPLICATES")}
    first, last = (json.loads(line)["event_id"] for line in (lines[0], lines[2]))
    assert set(found) == {first, last}
    counts = ("copy_count", "replay_count", "outbox_count")
    assert [found[first][name] for name in counts] == [3, 2, 1]
    assert [found[last][name] for name in counts] == [2, 0, 2]


def test_of_two_copies_the_one_that_arrived_first_is_the_event(account: DuckDbAccount) -> None:
    """ingestion_time and not the outbox's id decides, and a replay comes last whenever it arrived."""
    lines = door_rows("door-1", [HOUR_S, 10.0])
    account.load([as_replay(lines[0])])
    account.load(moved(lines[:1], "aaaaaaaaaaaa", "zzzzzzzzzzzz"))
    account.load(lines[:1])
    account.change("UPDATE {table} SET ingestion_time = '2026-01-01' WHERE replay")
    account.change("UPDATE {table} SET ingestion_time = '2026-01-03' WHERE outbox_id = 'aaaaaaaaaaaa'")
    account.change("UPDATE {table} SET ingestion_time = '2026-01-02' WHERE ingestion_time > '2026-01-03'")

    [event] = account.view("V_BADGE_EVENTS")

    assert (event["outbox_id"], event["replay"]) == (json.loads(lines[0])["outbox_id"], None)


def test_failed_at_is_in_utc_whatever_the_session(account: DuckDbAccount) -> None:
    account.change("SET TIMEZONE = 'America/New_York'")
    try:
        account.change(
            "INSERT INTO ERRORS SELECT '2026-07-01 12:00:00-04:00'::TIMESTAMP_TZ, 1, "
            'PARSE_JSON(\'{{"service": "snowpipe_streaming"}}\'), NULL'
        )

        [row] = account.view("V_CHANNEL_ERRORS")

        assert row["failed_at"] == "2026-07-01 16:00:00.000000"
    finally:
        account.change("SET TIMEZONE = 'UTC'")


def test_a_role_sees_the_doors_of_its_sites(account: DuckDbAccount) -> None:
    made = [one for one in statements(script(PLAN, "privacy")) if "SITE_ROLES" in one]
    for statement in made:
        account.change(
            statement.replace("IS_ROLE_IN_SESSION(allowed.role_name)", "allowed.role_name = 'MINE'")
        )
    account.change(f"INSERT INTO {PLAN.site_roles} VALUES ('HQ', 'MINE'), ('ANNEX', 'OTHER')")
    account.change(
        f"INSERT INTO {PLAN.expected_doors} VALUES ('door-1', 'HQ', NULL), ('door-2', 'ANNEX', NULL)"
    )

    account.load([*door_rows("door-1", [3.0]), *door_rows("door-2", [2.0]), *door_rows("door-3", [1.0])])

    assert len(made) == 2
    assert [row["agent_id"] for row in account.view("V_BADGE_EVENTS_BY_SITE")] == ["door-1"]


def test_the_dynamic_table_has_the_events_of_the_view(account: DuckDbAccount) -> None:
    statement = statements(script(PLAN, "dynamic-table"))[-1]
    lines = door_rows("door-1", [30.0, 20.0, 10.0])
    account.load([*lines, as_replay(lines[0]), *moved(lines[2:], "restored-one", "x")])

    found = account.rows(f"({statement[statement.index('SELECT') :]})")

    events = account.view("V_BADGE_EVENTS")
    assert sorted(row["event_id"] for row in found) == sorted(row["event_id"] for row in events)
    assert not any(row["replay"] for row in found)


def test_who_ran_which_command_is_listed_newest_first(account: DuckDbAccount) -> None:
    lines, chain = [], "0" * 12
    for number, actor in enumerate(("anna", None, "bob"), start=1):
        read_at = instant(NOON_US + number * 1_000_000)
        event = DoorEvent("outbox_show", "info", f"read {number} rows", read_at, actor=actor)
        chain, row = event_rows.render(event, event_id=str(number), agent_id="door", previous_chain=chain)
        lines.append(event_rows.as_sent(row, RowPosition("0" * 12, number)))

    account.report(*lines)

    rows = account.view("V_OPERATOR_ACTIONS")
    assert [(row["actor"], row["kind"], row["message"], row["seq"]) for row in rows] == [
        ("bob", "outbox_show", "read 3 rows", 3),
        ("anna", "outbox_show", "read 1 rows", 1),
    ]
    assert rows[0]["happened_at"].startswith("2026-03-01 12:00:03")
