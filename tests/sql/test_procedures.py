"""Deleting old rows and erasing a person: gaps and chains stay silent, and still find other changes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from agent.rows import as_replay, person_digest, sample
from agent.sql.columns import PERSONAL
from tests.sql.doors import HOUR_S, Door, door_rows
from tests.sql.engines import PLAN, DuckDbAccount

DAY_S = 24 * HOUR_S


def purge(account: DuckDbAccount, days: float) -> None:
    before = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    assert account.call(PLAN.purge, {"before_time": before.isoformat(" ")})


def erase(account: DuckDbAccount, of_user: str | None = None, of_badge: str | None = None) -> None:
    assert account.call(PLAN.erase, {"of_user": of_user, "of_badge": of_badge})


def problems(account: DuckDbAccount) -> list[tuple[int, str]]:
    return [(row["seq"], row["problem"]) for row in account.view("V_DOOR_CHAIN")]


def gaps(account: DuckDbAccount) -> list[tuple[int, int]]:
    return [(row["first_missing_seq"], row["last_missing_seq"]) for row in account.view("V_DOOR_GAPS")]


def days_of(door: Door, days: list[float]) -> None:
    for day in days:
        door.swipe(day * DAY_S)


def test_purged_rows_are_neither_a_gap_nor_a_broken_chain(account: DuckDbAccount) -> None:
    door = Door("door-1")
    days_of(door, [10, 9, 8, 3, 2, 1])
    account.load(door.sent)

    purge(account, 5)

    assert [row["seq"] for row in account.table()] == [4, 5, 6]
    assert (gaps(account), problems(account)) == ([], [])
    purged = account.rows(PLAN.purged)
    assert [
        (row["outbox_id"], row["up_to_seq"], row["row_count"], row["missing_count"]) for row in purged
    ] == [(door.outbox_id, 3, 3, 0)]
    assert purged[0]["chain"] == json.loads(door.sent[2])["chain"]


def test_without_the_purge_the_same_deletion_is_found(account: DuckDbAccount) -> None:
    door = Door("door-1")
    days_of(door, [10, 9, 8, 3, 2, 1])
    account.load(door.sent)

    account.change("DELETE FROM {table} WHERE seq <= 3")

    assert (gaps(account), problems(account)) == ([(1, 3)], [(4, "row before is missing")])


def test_after_a_purge_a_row_at_the_border_that_was_altered_is_found(account: DuckDbAccount) -> None:
    door = Door("door-1")
    days_of(door, [10, 9, 8, 3, 2, 1])
    account.load(door.sent)
    purge(account, 5)

    account.change("UPDATE {table} SET badge_id = 'X' WHERE seq = 4")
    account.change("DELETE FROM {table} WHERE seq = 5")

    assert gaps(account) == [(5, 5)]
    assert problems(account) == [(4, "altered or reordered"), (6, "row before is missing")]


def test_a_whole_outbox_can_be_purged_before_the_next_one(account: DuckDbAccount) -> None:
    door = Door("door-1")
    days_of(door, [10, 9])
    door.new_generation()
    days_of(door, [2, 1])
    account.load(door.sent)

    purge(account, 5)

    assert (gaps(account), problems(account)) == ([], [])
    assert {row["outbox_id"] for row in account.table()} == {door.outbox_id}


def test_purging_twice_counts_each_row_once_and_numbers_that_were_missing(account: DuckDbAccount) -> None:
    door = Door("door-1")
    days_of(door, [10, 9, 8, 6, 2, 1])
    account.load([door.sent[0], *door.sent[2:]])

    purge(account, 7)
    purge(account, 7)
    purge(account, 5)

    purged = [(row["up_to_seq"], row["row_count"], row["missing_count"]) for row in account.rows(PLAN.purged)]
    assert sorted(purged) == [(3, 2, 1), (4, 1, 0)]
    assert (gaps(account), problems(account)) == ([], [])


def test_a_replay_of_purged_rows_is_no_problem_and_goes_with_the_next_purge(account: DuckDbAccount) -> None:
    door = Door("door-1")
    days_of(door, [10, 9, 8, 3, 2])
    account.load(door.sent)
    purge(account, 5)

    account.load([as_replay(door.sent[1])])
    found = (gaps(account), problems(account))
    purge(account, 5)

    assert found == ([], [])
    assert [row["seq"] for row in account.table()] == [4, 5]


def test_rows_after_a_row_that_is_kept_are_kept(account: DuckDbAccount) -> None:
    """A corrected clock may give a later row an earlier time."""
    door = Door("door-1")
    days_of(door, [10, 2, 9, 1])
    account.load(door.sent)

    purge(account, 5)

    assert [row["seq"] for row in account.table()] == [2, 3, 4]


def test_a_swipe_of_1970_that_arrived_today_is_not_old(account: DuckDbAccount) -> None:
    account.load(door_rows("door-1", [1.7e9], trusted=False))

    purge(account, 5)

    assert len(account.table()) == 1


def test_rows_without_an_outbox_go_by_their_time(account: DuckDbAccount) -> None:
    names = {"badge_id": "B", "user_id": "U", "zone_id": "Z", "reader_id": "R"}
    old = sample(names, -60, event_id="old", agent_id="door-1-sample", wall_us=1_600_000_000_000_000)
    now = int(datetime.now(UTC).timestamp() * 1e6)
    account.load([old, sample(names, -60, event_id="new", agent_id="door-1-sample", wall_us=now)])

    purge(account, 5)

    assert [row["event_id"] for row in account.table()] == ["new"]
    assert account.rows(PLAN.purged) == []


def test_of_an_erased_person_nothing_is_left_but_the_digest(account: DuckDbAccount) -> None:
    lines = door_rows("door-1", [4.0, 3.0, 2.0, 1.0])
    account.load([line.replace(b'"UNKNOWN"', b'"USR-2"') if b"123-2" in line else line for line in lines])
    # The digest is that of the row as it is in the table.
    members = json.loads(lines[1]) | {"user_id": "USR-2"}

    erase(account, of_user="USR-2")

    [row] = [one for one in account.table() if one["seq"] == 2]
    assert row["person_digest"] == person_digest(members)
    assert (row["badge_id"], row["user_id"]) == ("ERASED", "ERASED")
    assert {row[name] for name in PERSONAL if name not in {"badge_id", "user_id"}} == {None}
    assert not set(PERSONAL) & set(json.loads(row["raw_json"]))
    others = [one for one in account.table() if one["seq"] != 2]
    assert not any(one["badge_id"] == "ERASED" for one in others)


def test_erasing_keeps_gaps_chain_and_comparison_silent(account: DuckDbAccount) -> None:
    lines = door_rows("door-1", [4.0, 3.0, 2.0, 1.0])
    account.load([*lines, as_replay(lines[1])])

    erase(account, of_badge="123-2")

    assert (gaps(account), problems(account), account.view("V_ROW_DIFFERS")) == ([], [], [])
    assert sorted(row["badge_id"] for row in account.view("V_BADGE_EVENTS")) == [
        "123-1",
        "123-3",
        "123-4",
        "ERASED",
    ]


def test_an_erased_row_that_is_altered_is_found(account: DuckDbAccount) -> None:
    account.load(door_rows("door-1", [3.0, 2.0, 1.0]))
    erase(account, of_badge="123-2")

    account.change("UPDATE {table} SET badge_id = '123-9' WHERE seq = 2")

    assert problems(account) == [(2, "altered or reordered")]


def test_a_row_replayed_after_the_erasure_is_erased_by_the_next_call(
    account: DuckDbAccount,
) -> None:
    lines = door_rows("door-1", [3.0, 2.0, 1.0])
    account.load(lines)
    erase(account, of_badge="123-2")

    account.load([as_replay(lines[1])])
    erase(account, of_badge="123-2")

    assert sorted({row["badge_id"] for row in account.table()}) == ["123-1", "123-3", "ERASED"]
    assert (gaps(account), problems(account)) == ([], [])


def test_a_row_whose_raw_json_is_no_object_is_erased_too(account: DuckDbAccount) -> None:
    """A cast would raise, and with error logging the UPDATE would leave this row as it is, in silence."""
    account.load(door_rows("door-1", [2.0, 1.0]))
    account.change("UPDATE {table} SET raw_json = PARSE_JSON('\"123-2\"') WHERE seq = 2")

    erase(account, of_badge="123-2")

    assert [(row["badge_id"], row["raw_json"]) for row in account.table() if row["seq"] == 2] == [
        ("ERASED", None)
    ]


def test_the_user_unknown_is_not_a_person(account: DuckDbAccount) -> None:
    account.load(door_rows("door-1", [3.0, 2.0, 1.0]))

    erase(account, of_user="UNKNOWN")

    assert not any(row["badge_id"] == "ERASED" for row in account.table())
