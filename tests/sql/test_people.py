"""V_PRESENT and V_PASSBACK: who is inside, and badges that cannot be where they are."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agent.rows import as_replay
from tests.sql.doors import HOUR_S, Door
from tests.sql.engines import DuckDbAccount


def walk(*steps: tuple[str, str, str | None, float]) -> Door:
    """A door whose swipes are these: badge, zone, direction, seconds ago."""
    door = Door("door-1")
    for badge, zone, direction, ago in steps:
        door.swipe(ago, badge_id=badge, zone_id=zone, direction=direction or "")
    return door


def changed(line: bytes, **members: Any) -> bytes:  # noqa: ANN401 - members of a row
    return json.dumps(json.loads(line) | members).encode()


def inside(account: DuckDbAccount) -> list[tuple[str, str]]:
    return [(row["zone_id"], row["badge_id"]) for row in account.view("V_PRESENT")]


def passbacks(account: DuckDbAccount) -> list[tuple[str, str]]:
    return sorted((row["badge_id"], row["problem"]) for row in account.view("V_PASSBACK"))


def test_inside_is_whose_last_event_in_a_zone_was_an_entry(account: DuckDbAccount) -> None:
    door = walk(
        ("IN", "LOBBY", "ENTRY", 500),
        ("OUT", "LOBBY", "ENTRY", 400),
        ("OUT", "LOBBY", "EXIT", 300),
        ("BACK", "LOBBY", "EXIT", 200),
        ("BACK", "LOBBY", "ENTRY", 2 * HOUR_S - 7000),
    )

    account.load([*door.sent, as_replay(door.sent[1])])

    assert inside(account) == [("LOBBY", "IN"), ("LOBBY", "BACK")]


def test_a_zone_without_an_exit_reader_says_nothing_of_presence(account: DuckDbAccount) -> None:
    account.load(walk(("A", "LOBBY", "ENTRY", 60), ("A", "LOBBY", "ENTRY", 30)).sent)

    assert (inside(account), passbacks(account)) == ([], [])


def test_a_swipe_without_direction_moves_no_one(account: DuckDbAccount) -> None:
    door = walk(("A", "LOBBY", "EXIT", 90), ("A", "LOBBY", "ENTRY", 60), ("A", "LOBBY", "X", 30))

    account.load([*door.sent[:2], changed(door.sent[2], direction=None)])

    assert inside(account) == [("LOBBY", "A")]


def test_hours_inside_count_from_the_entry(account: DuckDbAccount) -> None:
    account.load(walk(("A", "LOBBY", "EXIT", 4 * HOUR_S), ("A", "LOBBY", "ENTRY", 3 * HOUR_S + 30)).sent)

    assert [row["hours_inside"] for row in account.view("V_PRESENT")] == [3.0]


@pytest.mark.parametrize("member", ["badge_id", "agent_id"])
def test_erased_persons_and_sample_events_are_nowhere(account: DuckDbAccount, member: str) -> None:
    door = walk(("A", "LOBBY", "EXIT", 90), ("A", "LOBBY", "ENTRY", 60))
    lines = (
        [changed(line, badge_id="ERASED") for line in door.sent]
        if member == "badge_id"
        else [changed(line, outbox_id=None, seq=None) for line in door.sent]
    )

    account.load(lines)

    assert (inside(account), passbacks(account)) == ([], [])


def test_two_entries_without_an_exit_are_a_passback(account: DuckDbAccount) -> None:
    door = walk(
        ("TWICE", "LOBBY", "ENTRY", 500),
        ("TWICE", "LOBBY", "ENTRY", 400),
        ("GOOD", "LOBBY", "ENTRY", 300),
        ("GOOD", "LOBBY", "EXIT", 200),
        ("GOOD", "LOBBY", "ENTRY", 100),
    )

    account.load([*door.sent, *map(as_replay, door.sent)])

    assert passbacks(account) == [("TWICE", "entered twice")]
    [row] = account.view("V_PASSBACK")
    assert (row["seconds_between"], row["previous_zone_id"]) == (pytest.approx(100, abs=0.2), "LOBBY")


@pytest.mark.parametrize(("seconds", "found"), [(3, True), (30, False)])
def test_one_badge_in_two_zones_sooner_than_a_person_walks(
    account: DuckDbAccount, seconds: float, *, found: bool
) -> None:
    account.load(walk(("A", "LOBBY", "ENTRY", 100), ("A", "SERVER", "ENTRY", 100 - seconds)).sent)

    assert passbacks(account) == ([("A", "two places")] if found else [])


@pytest.mark.parametrize("second", ["LOBBY", "SERVER"])
def test_clocks_that_may_be_off_are_no_proof(account: DuckDbAccount, second: str) -> None:
    door = walk(("A", "LOBBY", "ENTRY", 100), ("A", second, "ENTRY", 97))
    uncertain = changed(door.sent[1], time_uncertainty_ms=20_000)
    unknown = changed(door.sent[1], clock="estimated")

    account.load([door.sent[0], uncertain])
    first = passbacks(account)
    account.clear()
    account.load([door.sent[0], unknown])

    assert first == passbacks(account) == []
