from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import __version__
from agent.rows import RowPosition, age_s, as_replay, chain_hash, first_link, iso, render
from agent.swipe import CardCheck, CardRead, Swipe
from tests.support.swipes import BOOT_ID, NOON_US, instant, swipe

PLACE = RowPosition("0a1b2c3d4e5f", 7, "9d2b1f6e-7c1a-4a55-8c0f-0123456789ab", "00112233aabbccdd")
DECODED = CardRead(26, "2F657AE", CardCheck.PARITY, "H10301", 123, 45_015, signal_strength=-58.5)


def rendered(a_swipe: Swipe, place: RowPosition = PLACE) -> dict[str, Any]:
    _, row = render(a_swipe, place, agent_id="hq-lobby-1")
    members: dict[str, Any] = json.loads(row)
    return members


def test_a_decoded_card_fills_every_field_of_the_row() -> None:
    a_swipe = dataclasses.replace(swipe(), badge_id="123-45015", user_id="USR-001", card=DECODED)

    row = rendered(a_swipe)

    assert row == {
        "badge_id": "123-45015",
        "user_id": "USR-001",
        "zone_id": "ZONE-LOBBY-1",
        "reader_id": "RDR-101",
        "event_timestamp": "2026-03-01T12:00:00.000000Z",
        "direction": "ENTRY",
        "signal_strength": -58.5,
        "event_id": PLACE.event_id,
        "agent_id": "hq-lobby-1",
        "outbox_id": "0a1b2c3d4e5f",
        "seq": 7,
        "chain": row["chain"],
        "card_bits": 26,
        "card_raw": "2F657AE",
        "card_format": "H10301",
        "facility_code": 123,
        "card_number": 45_015,
        "card_check": "parity",
        "clock": "synced",
        "recorded_at": "2026-03-01T12:00:00.000000Z",
        "boot_id": BOOT_ID,
        "boot_ms": 60_000,
        "replay": False,
        "agent_version": __version__,
    }


def test_what_a_card_does_not_have_is_absent_and_never_null() -> None:
    row = rendered(dataclasses.replace(swipe(), direction=None))

    absent = {"direction", "signal_strength", "card_format", "facility_code", "card_number"}
    assert not absent & row.keys()
    assert None not in row.values()


def test_a_time_of_an_untrusted_clock_is_called_estimated() -> None:
    row = rendered(swipe(read_at=instant(trusted=False)))

    assert row["clock"] == "estimated"


def test_the_chain_can_be_recomputed_from_the_row_and_the_link_before() -> None:
    chain, row = render(swipe(), PLACE, agent_id="hq-lobby-1")

    m = json.loads(row)
    text = (
        f"00112233aabbccdd|{m['event_id']}|{m['reader_id']}|{m['card_bits']}|{m['card_raw']}"
        f"|{m['recorded_at']}|{m['boot_id']}|{m['boot_ms']}"
    )
    assert chain == m["chain"] == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_first_row_is_tied_to_its_outbox() -> None:
    assert first_link("0a1b2c3d4e5f") == "0a1b2c3d4e5f"


@pytest.mark.parametrize(
    "member", ["reader_id", "card_bits", "card_raw", "recorded_at", "boot_id", "boot_ms"]
)
def test_an_altered_row_no_longer_fits_its_chain(member: str) -> None:
    row = rendered(swipe())

    altered = chain_hash(PLACE.previous_chain, PLACE.event_id, row | {member: f"{row[member]}0"})

    assert altered != row["chain"]


def test_the_chain_depends_on_the_event_and_on_the_row_before() -> None:
    row = rendered(swipe())

    assert chain_hash("another", PLACE.event_id, row) != row["chain"]
    assert chain_hash(PLACE.previous_chain, "another", row) != row["chain"]


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_any_text_of_the_configuration_comes_back_from_a_single_line(text: str) -> None:
    a_swipe = dataclasses.replace(swipe(), zone_id=text, badge_id=text)

    _, row = render(a_swipe, PLACE, agent_id=text)

    assert b"\n" not in row
    assert {json.loads(row)[name] for name in ("zone_id", "badge_id", "agent_id")} == {text}


def test_a_replayed_row_differs_in_nothing_but_its_mark() -> None:
    _, row = render(swipe(), PLACE, agent_id="hq-lobby-1")

    again = as_replay(row)

    assert json.loads(again) == json.loads(row) | {"replay": True}
    assert as_replay(again) != row


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001 - hypothesis wants them naive
def test_a_time_is_written_with_microseconds_and_z_and_reads_back(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)

    text = iso((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))

    assert datetime.fromisoformat(text) == moment
    assert len(text) == len("2026-03-01T12:00:00.000000Z")
    assert text.endswith("Z")


def test_an_age_within_one_boot_is_measured_by_the_boot_time_clock() -> None:
    _, row = render(swipe(), PLACE, agent_id="hq-lobby-1")

    assert age_s(row, instant(wall_us=0, boot_ms=61_500)) == 1.5


def test_an_age_across_a_reboot_is_measured_by_the_wall_clock_and_never_negative() -> None:
    _, row = render(swipe(), PLACE, agent_id="hq-lobby-1")
    later = dataclasses.replace(instant(NOON_US + 90_000_000), boot_id="another")

    assert age_s(row, later) == 90.0
    assert age_s(row, dataclasses.replace(later, wall_us=0)) == 0.0
