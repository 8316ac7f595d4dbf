"""V_DOOR_CHAIN over generated lives of an outbox: exactly the places that were changed are listed."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rows import UNKNOWN_LINK, as_replay, person_digest
from agent.sql.views.chain import OLD_ROWS
from tests.sql.doors import Door, door_rows
from tests.sql.engines import DuckDbAccount, EmulatorFile, Engine
from tests.support.outbox_rig import commit, opened, rows_after, stored
from tests.support.paths import DATA
from tests.support.swipes import swipe

Problem = tuple[str, int, str, str]

# Members of the chain, each with a value that no generated row has.
ALTERATIONS = (
    ("event_id", "another"),
    ("agent_id", "another"),
    ("reader_id", "RDR-9"),
    ("zone_id", "ZONE-9"),
    ("direction", "EXIT"),
    ("recorded_at", "2001-01-01T00:00:00.000000Z"),
    ("boot_id", "another"),
    ("boot_ms", 1),
    ("person_salt", "another"),
    ("badge_id", "999-9"),
    ("user_id", "USR-9"),
    ("card_bits", 27),
    ("card_raw", "FFFFFFF"),
)

LIVES = st.tuples(
    st.lists(st.sampled_from(["old", "old", "generation"]), max_size=5),
    st.lists(st.sampled_from(["swipe", "swipe", "corrected", "generation", "rename"]), max_size=12),
).map(lambda parts: [*parts[0], *parts[1]])
CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["drop", "drop generation", "alter", "swap", "copy", "forge"]),
        st.integers(0, 100),
        st.integers(0, 100),
    ),
    max_size=4,
)


@dataclass(frozen=True)
class Sent:
    """A row in the table: its number in the life of the outbox, its members, and what was done to it."""

    number: int
    members: dict[str, Any]
    altered: bool = False

    @property
    def place(self) -> tuple[str, int]:
        return self.members["outbox_id"], self.members["seq"]

    @property
    def is_old(self) -> bool:
        return len(self.members["chain"]) == 16

    def at(self, place: tuple[str, int]) -> Sent:
        return replace(self, members=self.members | {"outbox_id": place[0], "seq": place[1]})

    def listed(self, problem: str) -> Problem:
        return (*self.place, self.members["event_id"], problem)


def lived(life: list[str]) -> list[Sent]:
    door = Door("door-1")
    for deed in life:
        match deed:
            case "old":
                door.swipe_of_an_old_agent()
            case "swipe":
                door.swipe(60.0)
            case "corrected":
                door.swipe(3600.0, trusted=False, corrected_us=1_772_366_400_000_000)
            case "generation":
                door.new_generation()
            case "rename":
                door.new_generation(agent_id=f"{door.agent_id}-b")
    return [Sent(number, json.loads(line)) for number, line in enumerate(door.sent)]


def changed(rows: list[Sent], changes: list[tuple[str, int, int]]) -> list[Sent]:
    for kind, first, second in changes:
        if not rows:
            return rows
        one = rows[first % len(rows)]
        others = [row for row in rows if row.place != one.place and row.place[0] == one.place[0]]
        name, value = ALTERATIONS[second % len(ALTERATIONS)]
        altered = replace(one, members=one.members | {name: value}, altered=True)
        match kind:
            case "drop":
                rows = [row for row in rows if row.place != one.place]
            case "drop generation":
                rows = [row for row in rows if row.place[0] != one.place[0]]
            case "alter":
                rows = [altered if row == one else row for row in rows]
            case "swap" if others:
                other = others[second % len(others)]
                places = {one.place: other.place, other.place: one.place}
                rows = [row.at(places.get(row.place, row.place)) for row in rows]
            case "copy":
                rows = [*rows, one]
            case "forge" if not one.is_old:
                rows = [*rows, altered]
    return rows


def expected(rows: list[Sent]) -> list[Problem]:
    """The problems by construction: from the rows' numbers, without any hash."""
    at: dict[tuple[str, int], list[Sent]] = {}
    for row in rows:
        if row not in at.setdefault(row.place, []):
            at[row.place].append(row)
    numbers = {row.number for row in rows}
    found, old = [], {}
    for (outbox_id, seq), copies in sorted(at.items()):
        before = at.get((outbox_id, seq - 1), [])
        for row in copies:
            problem = _problem(row, copies, before, numbers)
            if problem == OLD_ROWS:
                old[outbox_id] = row.listed(problem)
            elif problem is not None:
                found.append(row.listed(problem))
    return sorted([*found, *old.values()])


def _problem(row: Sent, copies: list[Sent], before: list[Sent], numbers: set[int]) -> str | None:
    is_first = row.place[1] == 1
    chain_before = row.members.get("chain_before")
    if len(copies) > 1:
        return "copies differ"
    if not is_first and not before:
        return "row before is missing"
    if row.is_old:
        follows = is_first or any(one.is_old for one in before)
    elif is_first:
        follows = chain_before is not None and not row.altered
    else:
        follows = row.number - 1 in {one.number for one in before} and not row.altered
    if not follows:
        return "altered or reordered"
    if chain_before is not None and len(chain_before) > 12 and row.number - 1 not in numbers:
        return "chain_before is unknown"
    return OLD_ROWS if row.is_old else None


def listed(engine: Engine) -> list[Problem]:
    return sorted(
        (row["outbox_id"], row["seq"], row["event_id"], row["problem"]) for row in engine.view("V_DOOR_CHAIN")
    )


def check(engine: Engine, life: list[str], changes: list[tuple[str, int, int]]) -> None:
    rows = changed(lived(life), changes)
    lines = [json.dumps(row.members).encode() for row in rows]
    lines += [as_replay(line) for line in lines[::3]]
    random.Random(len(lines)).shuffle(lines)  # noqa: S311 - not a secret

    engine.change("DELETE FROM {table}")
    engine.load(lines)

    assert listed(engine) == expected(rows)


@given(life=LIVES, changes=CHANGES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_the_changed_places_of_a_life_are_listed(
    emulator_file: EmulatorFile, life: list[str], changes: list[tuple[str, int, int]]
) -> None:
    check(emulator_file, life, changes)


@given(life=LIVES, changes=CHANGES)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_exactly_the_changed_places_of_a_life_are_listed_in_an_account(
    account: DuckDbAccount, life: list[str], changes: list[tuple[str, int, int]]
) -> None:
    check(account, life, changes)


# --- generations ------------------------------------------------------------------------------


def test_an_unchanged_life_of_many_generations_and_names_has_no_problem(emulator_file: EmulatorFile) -> None:
    life = [
        "generation",
        "swipe",
        "swipe",
        "rename",
        "corrected",
        "swipe",
        "generation",
        "generation",
        "swipe",
    ]

    check(emulator_file, life, [])

    assert emulator_file.view("V_DOOR_CHAIN") == []


def test_a_generation_that_is_missing_shows_at_the_next_one(emulator_file: EmulatorFile) -> None:
    door = Door("door-1")
    door.swipe(60.0)
    door.new_generation()
    door.swipe(50.0)
    middle = door.sent.pop()
    door.new_generation()
    door.swipe(40.0)

    emulator_file.load(door.sent)

    missing = emulator_file.view("V_DOOR_CHAIN")
    assert [(row["outbox_id"], row["seq"], row["problem"]) for row in missing] == [
        (door.outbox_id, 1, "chain_before is unknown")
    ]
    emulator_file.load([middle])
    assert emulator_file.view("V_DOOR_CHAIN") == []


def test_a_row_whose_previous_chain_damage_has_taken_is_listed_as_that(emulator_file: EmulatorFile) -> None:
    door = Door("door-1")
    for at in (60.0, 50.0):
        door.swipe(at)
    members = json.loads(door.sent[0]) | {"chain_before": UNKNOWN_LINK, "chain": "0" * 32}

    emulator_file.load([json.dumps(members).encode(), door.sent[1]])

    assert [(row["seq"], row["problem"]) for row in emulator_file.view("V_DOOR_CHAIN")] == [
        (1, "chain_before is unknown"),
        (2, "altered or reordered"),
    ]


def test_rows_of_an_older_agent_are_one_line_and_do_not_break_the_row_after_them(
    emulator_file: EmulatorFile,
) -> None:
    door = Door("door-1")
    for _ in range(3):
        door.swipe_of_an_old_agent()
    door.swipe(50.0)
    door.swipe(40.0)

    emulator_file.load(door.sent)

    assert [(row["seq"], row["problem"]) for row in emulator_file.view("V_DOOR_CHAIN")] == [(3, OLD_ROWS)]


# --- a real outbox ----------------------------------------------------------------------------


def test_what_an_outbox_sends_in_several_generations_has_no_problem(
    emulator_file: EmulatorFile, tmp_path: Path
) -> None:
    rows = []
    with closing(opened(tmp_path)) as outbox:
        for first in (1, 11, 21):
            outbox.keep(*map(swipe, range(first, first + 5)))
            rows += rows_after(outbox)
            commit(outbox, 3)
            outbox.start_generation("a test wants it")
        rows += rows_after(outbox)

    emulator_file.load([json.dumps(row).encode() for row in rows])

    assert len({row["outbox_id"] for row in rows}) == 4
    assert emulator_file.view("V_DOOR_CHAIN") == []


@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_an_outbox_of_an_earlier_version_sends_is_checked_from_its_first_new_row(
    emulator_file: EmulatorFile, tmp_path: Path, version: int
) -> None:
    with closing(sqlite3.connect(tmp_path / "outbox.db")) as connection:
        connection.executescript((DATA / "outbox" / f"v{version}.sql").read_text())
    with closing(opened(tmp_path)) as outbox:
        outbox.keep(swipe(13), swipe(14))
    rows = stored(tmp_path)

    emulator_file.load([json.dumps(row).encode() for row in rows])

    # Of this file's twelve rows the first two are purged; they are not sent here.
    found = [(row["seq"], row["problem"]) for row in emulator_file.view("V_DOOR_CHAIN")]
    assert [row["seq"] for row in rows] == list(range(3, 15))
    assert found == [(3, "row before is missing"), (12, OLD_ROWS)]


# --- erasing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["account", "emulator_file"])
def test_an_erased_person_leaves_the_chain_provable(name: str, request: pytest.FixtureRequest) -> None:
    engine: Engine = request.getfixturevalue(name)
    lines = door_rows("door-1", [4.0, 3.0, 2.0, 1.0])
    digest = person_digest(json.loads(lines[1]))
    engine.change("DELETE FROM {table}")
    engine.load(lines)

    engine.change(
        f"UPDATE {{table}} SET person_digest = '{digest}', person_salt = NULL, badge_id = 'ERASED', "
        "user_id = 'ERASED', card_bits = NULL, card_raw = NULL WHERE seq = 2"
    )
    erased = listed(engine)
    engine.change("UPDATE {table} SET badge_id = '123-9' WHERE seq = 2")

    assert erased == []
    assert [(seq, problem) for _, seq, _, problem in listed(engine)] == [(2, "altered or reordered")]
