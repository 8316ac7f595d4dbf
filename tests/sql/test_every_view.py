"""Every view against every way in which rows change: what it shows then, and that others show the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any

import pytest

from agent import event_rows
from agent.door_event import DoorEvent
from agent.rows import RowPosition, as_replay
from agent.sql.views import VIEWS
from tests.sql.doors import Door
from tests.sql.engines import PLAN, DuckDbAccount
from tests.support.swipes import NOON_US, instant

Shown = dict[str, list[tuple[Any, ...]]]

# The columns of each view that tell its rows apart and do not depend on the moment of the test.
KEYS = MappingProxyType(
    {
        "V_BADGE_EVENTS": ("badge_id", "seq"),
        "V_INGESTION_METRICS": ("event_count", "entry_count", "exit_count"),
        "V_ANCHORS": ("agent_id", "seq"),
        "V_DOOR_GAPS": ("agent_id", "first_missing_seq", "last_missing_seq"),
        "V_DOOR_CHAIN": ("agent_id", "seq", "problem"),
        "V_DOOR_STATUS": ("agent_id", "event_count", "outbox_count"),
        "V_END_TO_END_LATENCY": ("agent_id", "event_count"),
        "V_LATENCY_DAILY": ("door_count", "event_count"),
        "V_CHANNEL_ERRORS": ("agent_id", "seq"),
        "V_DUPLICATES": ("agent_id", "copy_count", "replay_count", "outbox_count"),
        "V_ROW_DIFFERS": ("agent_id", "seq", "differing_columns"),
        "V_PRESENT": ("zone_id", "badge_id"),
        "V_PASSBACK": ("badge_id", "problem"),
        "V_FLEET": ("agent_id", "status"),
        "V_OPERATOR_ACTIONS": ("agent_id", "kind"),
    }
)

# Zone, badge and direction of the swipes of door "main", a minute after each other; all left but C and D.
SWIPES = (("A", "ENTRY"), ("A", "EXIT"), ("B", "ENTRY"), ("B", "EXIT"), ("C", "ENTRY"), ("D", "ENTRY"))
FIRST_S, EACH_S = 600, 60


def events(*badges: str, other: bool = True) -> list[tuple[Any, ...]]:
    """The events of "main", a badge for each seq and "-" for none, and those of the other door."""
    shown = [(badge, seq) for seq, badge in enumerate(badges, start=1) if badge != "-"]
    return shown + ([("X", 1), ("Y", 2)] if other else [])


def counted(main: int, *, outboxes: int = 1, entries: int, exits: int) -> Shown:
    """The views that only count rows, with this many of "main"."""
    return {
        "V_INGESTION_METRICS": [(main + 2, entries + 1, exits + 1)],
        "V_DOOR_STATUS": [("main", main, outboxes), ("other", 2, 1)],
        "V_END_TO_END_LATENCY": [("main", main), ("other", 2)],
        "V_LATENCY_DAILY": [(2, main + 2)],
    }


UNCHANGED: Shown = {
    **counted(6, entries=4, exits=2),
    "V_BADGE_EVENTS": events("A", "A", "B", "B", "C", "D"),
    "V_ANCHORS": [("main", 6), ("other", 2)],
    "V_DOOR_GAPS": [],
    "V_DOOR_CHAIN": [],
    "V_CHANNEL_ERRORS": [("main", 7)],
    "V_DUPLICATES": [],
    "V_ROW_DIFFERS": [],
    "V_PRESENT": [("Z", "C"), ("Z", "D"), ("Z2", "Y")],
    "V_PASSBACK": [],
    "V_FLEET": [("main", "OK"), ("other", "OK")],
    "V_OPERATOR_ACTIONS": [("main", "outbox_show")],
}


class Rig:
    """An account with the rows of two doors, their heartbeats, a door event and a skipped row."""

    def __init__(self, account: DuckDbAccount) -> None:
        self.account = account
        self.main, other = Door("main"), Door("other")
        for number, (badge, direction) in enumerate(SWIPES):
            self.swipe(FIRST_S - number * EACH_S, badge, direction)
        other.swipe(100, badge_id="X", zone_id="Z2", direction="EXIT")
        other.swipe(50, badge_id="Y", zone_id="Z2", direction="ENTRY")
        account.load([*self.main.sent, *other.sent])
        event = DoorEvent("outbox_show", "info", "read 1 row", instant(NOON_US), actor="anna")
        _, row = event_rows.render(event, event_id="1", agent_id="main", previous_chain="0" * 12)
        self.door_event = event_rows.as_sent(row, RowPosition("0" * 12, 1))
        self.heartbeat = self.main.heartbeat()
        account.report(self.heartbeat, other.heartbeat(), self.door_event)
        skipped = json.dumps({"agent_id": "main", "seq": 7})
        account.fail('{"service": "snowpipe_streaming"}', json.dumps({"$1": skipped}))

    def swipe(self, seconds_ago: float, badge: str, direction: str) -> None:
        """Keep a swipe at "main"; what is not loaded is in main.sent."""
        self.main.swipe(seconds_ago, badge_id=badge, zone_id="Z", direction=direction)

    def update(self, assignment: str, seq: int) -> None:
        """Alter a row of "main"."""
        self.account.change(f"UPDATE {{table}} SET {assignment} WHERE agent_id = 'main' AND seq = {seq}")

    def delete(self, condition: str) -> None:
        """Delete rows of "main"."""
        self.account.change(f"DELETE FROM {{table}} WHERE agent_id = 'main' AND {condition}")

    def purge(self) -> None:
        """Purge the first two rows of "main"; all others are newer."""
        before = datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=FIRST_S - 1.5 * EACH_S)
        self.account.call(PLAN.purge, {"before_time": before.isoformat(" ")})

    def erase(self) -> None:
        """Erase the holder of badge C."""
        self.account.call(PLAN.erase, {"of_user": None, "of_badge": "C"})

    def second_generation(self) -> None:
        """One more swipe, under a new outbox id."""
        self.main.new_generation()
        self.swipe(30, "E", "ENTRY")
        self.account.load(self.main.sent[-1:])

    def shown(self) -> Shown:
        """What every view shows, by its KEYS."""
        return {
            name: sorted((tuple(row[key] for key in keys) for row in self.account.view(name)), key=str)
            for name, keys in KEYS.items()
        }


def altered_direction(rig: Rig) -> None:
    rig.update("direction = 'ENTRY'", 2)


def altered_time(rig: Rig) -> None:
    rig.update("event_timestamp = DATEADD('hour', -1, event_timestamp)", 4)


def reordered(rig: Rig) -> None:
    rig.account.change(
        "UPDATE {table} SET seq = CASE seq WHEN 3 THEN 4 ELSE 3 END WHERE agent_id = 'main' AND seq IN (3, 4)"
    )


def deleted_and_replayed(rig: Rig) -> None:
    rig.delete("seq = 5")
    rig.account.load([as_replay(rig.main.sent[4])])


def first_generation_deleted(rig: Rig) -> None:
    rig.second_generation()
    rig.delete("seq > 1")
    rig.delete("badge_id = 'A'")


def heartbeats_deleted(rig: Rig) -> None:
    rig.account.change(f"DELETE FROM {PLAN.events_table} WHERE agent_id = 'main' AND kind = 'heartbeat'")


ALTERED = "altered or reordered"
CASES: dict[str, tuple[Callable[[Rig], object], Shown]] = {
    "nothing": (lambda _: None, {}),
    "badge altered": (
        lambda rig: rig.update("badge_id = 'E'", 5),
        {
            "V_BADGE_EVENTS": events("A", "A", "B", "B", "E", "D"),
            "V_DOOR_CHAIN": [("main", 5, ALTERED)],
            "V_ROW_DIFFERS": [("main", 5, "badge_id")],
            "V_PRESENT": [("Z", "D"), ("Z", "E"), ("Z2", "Y")],
        },
    ),
    "direction altered": (
        altered_direction,
        {
            "V_INGESTION_METRICS": [(8, 6, 2)],
            "V_DOOR_CHAIN": [("main", 2, ALTERED)],
            "V_ROW_DIFFERS": [("main", 2, "direction")],
            "V_PRESENT": [("Z", "A"), ("Z", "C"), ("Z", "D"), ("Z2", "Y")],
            "V_PASSBACK": [("A", "entered twice")],
        },
    ),
    "time altered": (
        altered_time,
        {
            "V_DOOR_CHAIN": [("main", 4, ALTERED)],
            "V_ROW_DIFFERS": [("main", 4, "event_timestamp")],
            "V_PRESENT": [("Z", "B"), ("Z", "C"), ("Z", "D"), ("Z2", "Y")],
        },
    ),
    "deleted at the end": (
        lambda rig: rig.delete("seq = 6"),
        {
            **counted(5, entries=3, exits=2),
            "V_BADGE_EVENTS": events("A", "A", "B", "B", "C"),
            "V_DOOR_GAPS": [("main", 6, 6)],
            "V_DOOR_CHAIN": [("main", 6, "missing up to here")],
            "V_PRESENT": [("Z", "C"), ("Z2", "Y")],
        },
    ),
    "deleted in the middle": (
        lambda rig: rig.delete("seq = 4"),
        {
            **counted(5, entries=4, exits=1),
            "V_BADGE_EVENTS": events("A", "A", "B", "-", "C", "D"),
            "V_DOOR_GAPS": [("main", 4, 4)],
            "V_DOOR_CHAIN": [("main", 5, "row before is missing")],
            "V_PRESENT": [("Z", "B"), ("Z", "C"), ("Z", "D"), ("Z2", "Y")],
        },
    ),
    "deleted altogether": (
        lambda rig: rig.delete("TRUE"),
        {
            "V_INGESTION_METRICS": [(2, 1, 1)],
            "V_DOOR_STATUS": [("other", 2, 1)],
            "V_END_TO_END_LATENCY": [("other", 2)],
            "V_LATENCY_DAILY": [(1, 2)],
            "V_BADGE_EVENTS": events(),
            "V_DOOR_GAPS": [("main", 1, 6)],
            "V_DOOR_CHAIN": [("main", 6, "missing up to here")],
            "V_PRESENT": [("Z2", "Y")],
        },
    ),
    # Both rows are of badge B.
    "reordered": (
        reordered,
        {
            "V_DOOR_CHAIN": [("main", seq, ALTERED) for seq in (3, 4, 5)],
            "V_ROW_DIFFERS": [("main", 3, "seq"), ("main", 4, "seq")],
        },
    ),
    "doubled": (
        lambda rig: rig.account.load(rig.main.sent[4:5]),
        {"V_INGESTION_METRICS": [(9, 6, 3)], "V_DUPLICATES": [("main", 2, 0, 1)]},
    ),
    "replayed": (
        lambda rig: rig.account.load([as_replay(rig.main.sent[4])]),
        {"V_INGESTION_METRICS": [(9, 6, 3)], "V_DUPLICATES": [("main", 2, 1, 1)]},
    ),
    "deleted and replayed": (
        deleted_and_replayed,
        {},
    ),
    "erased": (
        Rig.erase,
        {
            "V_BADGE_EVENTS": events("A", "A", "B", "B", "ERASED", "D"),
            "V_END_TO_END_LATENCY": [("main", 5), ("other", 2)],
            "V_LATENCY_DAILY": [(2, 7)],
            "V_PRESENT": [("Z", "D"), ("Z2", "Y")],
        },
    ),
    "purged": (
        Rig.purge,
        {
            **counted(4, entries=3, exits=1),
            "V_BADGE_EVENTS": events("-", "-", "B", "B", "C", "D"),
        },
    ),
    "two generations": (
        Rig.second_generation,
        {
            **counted(7, outboxes=2, entries=5, exits=2),
            "V_BADGE_EVENTS": [*events("A", "A", "B", "B", "C", "D"), ("E", 1)],
            "V_PRESENT": [("Z", "C"), ("Z", "D"), ("Z", "E"), ("Z2", "Y")],
        },
    ),
    "first of two generations deleted": (
        first_generation_deleted,
        {
            **counted(1, entries=1, exits=0),
            "V_BADGE_EVENTS": [*events(), ("E", 1)],
            "V_DOOR_GAPS": [("main", 1, 6)],
            "V_DOOR_CHAIN": [("main", 1, "chain_before is unknown"), ("main", 6, "missing up to here")],
            # Without any EXIT the zone has no reader that says who left.
            "V_PRESENT": [("Z2", "Y")],
        },
    ),
    "heartbeats deleted": (
        heartbeats_deleted,
        {"V_ANCHORS": [("other", 2)], "V_FLEET": [("main", "NO HEARTBEATS"), ("other", "OK")]},
    ),
    "door event deleted": (
        lambda rig: rig.account.change(f"DELETE FROM {PLAN.events_table} WHERE actor IS NOT NULL"),
        {"V_OPERATOR_ACTIONS": []},
    ),
    "door event doubled": (lambda rig: rig.account.report(rig.door_event), {}),
    # V_ANCHORS lists every arrival: a forged copy cannot hide a heartbeat.
    "heartbeat doubled": (
        lambda rig: rig.account.report(rig.heartbeat),
        {"V_ANCHORS": [("main", 6), ("main", 6), ("other", 2)]},
    ),
    "error table emptied": (
        lambda rig: rig.account.change("DELETE FROM ERRORS"),
        {"V_CHANNEL_ERRORS": []},
    ),
}


def test_the_table_below_has_every_view() -> None:
    assert set(KEYS) == set(UNCHANGED) == {view.name for view in VIEWS}


@pytest.mark.parametrize("case", CASES)
def test_each_view_shows_what_changed_and_the_others_the_same(account: DuckDbAccount, case: str) -> None:
    change, changed = CASES[case]
    rig = Rig(account)

    change(rig)

    expected = UNCHANGED | changed
    assert rig.shown() == {name: sorted(rows, key=str) for name, rows in expected.items()}
