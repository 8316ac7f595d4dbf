from __future__ import annotations

import dataclasses
import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rows import (
    RowLink,
    RowPosition,
    age_s,
    as_replay,
    as_sent,
    chain_hash,
    first_link,
    iso,
    parse,
    render,
    scan,
    with_timestamp,
)
from agent.swipe import CardCheck, CardRead, Swipe
from tests.support.swipes import BOOT_ID, NOON_US, instant, swipe

LINK = RowLink("9d2b1f6e-7c1a-4a55-8c0f-0123456789ab", "0123456789abcdef", "00112233445566778899aabbccddeeff")
PLACE = RowPosition("0a1b2c3d4e5f", 7)
DECODED = CardRead(26, "2F657AE", CardCheck.PARITY, "H10301", 123, 45_015, signal_strength=-58.5)


def rendered(a_swipe: Swipe, link: RowLink = LINK) -> dict[str, Any]:
    _, row = render(a_swipe, link, agent_id="hq-lobby-1")
    members: dict[str, Any] = json.loads(row)
    return members


def recomputed(previous: str, m: dict[str, Any]) -> str:
    """The chain as documented, from the members of a row alone."""
    person = f"{m['person_salt']}|{m['badge_id']}|{m['user_id']}|{m['card_bits']}|{m['card_raw']}"
    text = (
        f"{previous}|{m['event_id']}|{m['agent_id']}|{m['reader_id']}|{m['zone_id']}|{m.get('direction', '')}"
        f"|{m.get('recorded_at', m['event_timestamp'])}|{m['boot_id']}|{m['boot_ms']}"
        f"|{hashlib.sha256(person.encode()).hexdigest()[:32]}"
    )
    return hashlib.sha256(text.encode()).hexdigest()[:32]


# --- the stored row -------------------------------------------------------------------------


def test_a_decoded_card_fills_every_field_of_the_row_in_this_order() -> None:
    a_swipe = dataclasses.replace(swipe(), badge_id="123-45015", user_id="USR-001", card=DECODED)

    row = rendered(a_swipe)

    assert list(row.items()) == [
        ("badge_id", "123-45015"),
        ("user_id", "USR-001"),
        ("zone_id", "ZONE-LOBBY-1"),
        ("reader_id", "RDR-101"),
        ("event_timestamp", "2026-03-01T12:00:00.000000Z"),
        ("direction", "ENTRY"),
        ("signal_strength", -58.5),
        ("event_id", LINK.event_id),
        ("agent_id", "hq-lobby-1"),
        ("card_bits", 26),
        ("card_raw", "2F657AE"),
        ("card_format", "H10301"),
        ("facility_code", 123),
        ("card_number", 45_015),
        ("card_check", "parity"),
        ("clock", "synced"),
        ("boot_id", BOOT_ID[:8]),
        ("boot_ms", 60_000),
        ("person_salt", LINK.person_salt),
        ("chain", row["chain"]),
    ]


def test_what_a_card_does_not_have_is_absent_and_never_null() -> None:
    row = rendered(dataclasses.replace(swipe(), direction=None))

    absent = {"direction", "signal_strength", "card_format", "facility_code", "card_number"}
    assert not absent & row.keys()
    assert None not in row.values()


def test_a_time_of_an_untrusted_clock_is_called_estimated() -> None:
    row = rendered(swipe(read_at=instant(trusted=False)))

    assert row["clock"] == "estimated"


def test_a_plain_row_costs_at_most_540_bytes_as_sent() -> None:
    card = dataclasses.replace(swipe(), badge_id="123-45015", user_id="USR-001", card=DECODED)
    plain = dataclasses.replace(card, card=DECODED._replace(signal_strength=None))
    a_long_life = dataclasses.replace(plain, read_at=instant(boot_ms=30 * 86_400_000))

    _, row = render(a_long_life, LINK, agent_id="hq-lobby-1")

    assert len(as_sent(row, RowPosition("0a1b2c3d4e5f", 12_345_678))) <= 540


# --- the chain ------------------------------------------------------------------------------


def test_the_chain_can_be_recomputed_from_the_row_and_the_link_before() -> None:
    for a_swipe in (swipe(), dataclasses.replace(swipe(), direction=None)):
        chain, row = render(a_swipe, LINK, agent_id="hq-lobby-1")

        assert chain == json.loads(row)["chain"] == recomputed(LINK.previous_chain, json.loads(row))


def test_the_first_row_is_tied_to_its_outbox() -> None:
    assert first_link("0a1b2c3d4e5f") == "0a1b2c3d4e5f"


@pytest.mark.parametrize(
    "member",
    [
        *(
            "event_id",
            "agent_id",
            "reader_id",
            "zone_id",
            "direction",
            "event_timestamp",
            "boot_id",
            "boot_ms",
        ),
        *("person_salt", "badge_id", "user_id", "card_bits", "card_raw"),
    ],
)
def test_an_altered_row_no_longer_fits_its_chain(member: str) -> None:
    row = rendered(swipe())

    altered = chain_hash(LINK.previous_chain, row | {member: f"{row[member]}0"})

    assert altered != row["chain"]


def test_the_chain_depends_on_the_row_before() -> None:
    row = rendered(swipe())

    assert chain_hash("another", row) != row["chain"]


def test_the_chain_of_a_corrected_row_is_still_that_of_its_recorded_time() -> None:
    chain, row = render(swipe(read_at=instant(trusted=False)), LINK, agent_id="hq-lobby-1")

    corrected = json.loads(with_timestamp(row, NOON_US + 3_600_000_000, sure=True, uncertainty_ms=5))

    assert recomputed(LINK.previous_chain, corrected) == chain


# --- corrected times ------------------------------------------------------------------------


def test_a_corrected_row_carries_the_time_it_was_stored_with() -> None:
    _, row = render(swipe(read_at=instant(trusted=False)), LINK, agent_id="hq-lobby-1")

    corrected = json.loads(with_timestamp(row, NOON_US + 1_000_000, sure=False, uncertainty_ms=70))

    assert corrected == json.loads(row) | {
        "event_timestamp": "2026-03-01T12:00:01.000000Z",
        "clock": "estimated",
        "time_uncertainty_ms": 70,
        "recorded_at": "2026-03-01T12:00:00.000000Z",
    }
    assert list(corrected)[-6:] == [
        *("time_uncertainty_ms", "recorded_at", "boot_id", "boot_ms", "person_salt", "chain")
    ]


def test_a_time_that_turns_out_right_is_not_carried_twice() -> None:
    _, row = render(swipe(read_at=instant(trusted=False)), LINK, agent_id="hq-lobby-1")

    corrected = json.loads(with_timestamp(row, NOON_US, sure=True, uncertainty_ms=5))

    assert corrected == json.loads(row) | {"clock": "corrected"}


@pytest.mark.parametrize(("sure", "trusted"), [(True, True), (True, False), (False, False)])
def test_a_swipe_whose_bytes_waited_is_never_sure_and_uncertainties_add_up(
    *, sure: bool, trusted: bool
) -> None:
    read = dataclasses.replace(swipe(read_at=instant(trusted=trusted)), age_us=1_800_000)
    _, row = render(read, LINK, agent_id="hq-lobby-1")
    stored = json.loads(row)

    corrected = json.loads(with_timestamp(row, NOON_US + 1_000_000, sure=sure, uncertainty_ms=200))

    assert (stored["clock"], stored["time_uncertainty_ms"]) == ("estimated", 900)
    assert stored["event_timestamp"] == iso(NOON_US - 900_000)
    assert (corrected["clock"], corrected["time_uncertainty_ms"]) == ("estimated", 1_100)
    assert corrected["event_timestamp"] == iso(NOON_US + 100_000)
    assert stored["recorded_at"] == corrected["recorded_at"] == iso(NOON_US)
    assert chain_hash(LINK.previous_chain, stored) == chain_hash(LINK.previous_chain, corrected)


@given(st.integers(0), st.binary(min_size=1, max_size=1))
def test_a_damaged_byte_of_a_row_that_waited_is_no_error(place: int, byte: bytes) -> None:
    waited = dataclasses.replace(swipe(1), age_us=3_000_000)
    row = bytearray(render(waited, RowLink("event-1", "", ""), agent_id="door")[1])
    at = place % len(row)
    row[at : at + 1] = byte

    changed = with_timestamp(bytes(row), NOON_US, sure=True, uncertainty_ms=5)

    assert len(changed) > len(row) // 2


def test_a_clock_that_was_not_confirmed_adds_to_the_uncertainty_until_the_time_is_corrected() -> None:
    read_at = dataclasses.replace(instant(NOON_US), trusted=True, max_error_us=1_000_000)
    waited = dataclasses.replace(swipe(1), age_us=3_000_000, read_at=read_at)
    row = render(waited, RowLink("event-1", "", ""), agent_id="door")[1]

    stored = json.loads(row)
    corrected = json.loads(with_timestamp(row, NOON_US + 60_000_000, sure=True, uncertainty_ms=5))

    assert stored["time_uncertainty_ms"] == 1_500 + 1_000
    assert corrected["time_uncertainty_ms"] == 1_500 + 5
    assert corrected["event_timestamp"] == "2026-03-01T12:00:58.500000Z"


# --- the row as sent ------------------------------------------------------------------------


def test_a_position_adds_members_after_the_chain_and_changes_none() -> None:
    _, row = render(swipe(), LINK, agent_id="hq-lobby-1")

    sent = as_sent(row, PLACE)
    first = as_sent(row, dataclasses.replace(PLACE, chain_before="0a1b2c3d4e5f"))

    assert sent == row[:-1] + b',"outbox_id":"0a1b2c3d4e5f","seq":7}'
    assert first == sent[:-1] + b',"chain_before":"0a1b2c3d4e5f"}'


def test_a_replayed_row_differs_in_nothing_but_its_mark() -> None:
    _, row = render(swipe(), LINK, agent_id="hq-lobby-1")

    again = as_replay(as_sent(row, PLACE))

    assert again == as_sent(row, PLACE)[:-1] + b',"replay":true}'


LEGACY = (
    b'{"badge_id":"1","event_id":"e","reader_id":"R","card_bits":40,"card_raw":"01","clock":"synced",'
    b'"event_timestamp":"2026-03-01T12:00:00.000000Z","recorded_at":"2026-03-01T12:00:00.000000Z",'
    b'"boot_id":"6f0c1d3e-5a7b-4c2d-9e8f-001122334455","boot_ms":60000,"agent_version":"1.0.0",'
    b'"outbox_id":"0a1b2c3d4e5f","seq":7,"chain":"00112233aabbccdd","replay":false}'
)


def test_a_row_of_an_older_version_is_sent_as_it_is_while_its_position_is_its_own() -> None:
    assert as_sent(LEGACY, PLACE) == LEGACY
    assert as_replay(LEGACY) == LEGACY.replace(b"false", b"true")


def test_a_row_of_an_older_version_takes_another_position_and_keeps_its_chain() -> None:
    moved = as_sent(LEGACY, RowPosition("ffffffffffff", 1, "00112233aabbccdd"))

    expected = json.loads(LEGACY) | {
        "outbox_id": "ffffffffffff",
        "seq": 1,
        "chain_before": "00112233aabbccdd",
    }
    del expected["replay"]
    assert json.loads(moved) == expected
    assert json.loads(as_replay(moved)) == expected | {"replay": True}


def test_a_damaged_row_of_an_older_version_raises_when_it_moves() -> None:
    with pytest.raises(ValueError, match=r"Expecting|delimiter"):
        as_sent(LEGACY.replace(b'"event_id":', b'"event_id";'), RowPosition("ffffffffffff", 1))


# --- reading rows ---------------------------------------------------------------------------


def test_stored_rows_of_both_kinds_are_found_with_the_bytes_around_them() -> None:
    _, row = render(swipe(), LINK, agent_id="hq-lobby-1")
    content = b"\x00" * 100 + b"before" + row + b"after" + LEGACY + b"\x00" * 5000

    for size in (7, 1_000, 100_000):
        pieces = (content[at : at + size] for at in range(0, len(content), size))
        found = [one for one in scan(pieces) if one is not None]

        assert [one.row for one in found] == [row, LEGACY]
        assert found[0].before.endswith(b"before")
        assert found[0].after.startswith(b"after")


def test_a_parsed_row_knows_which_row_it_follows() -> None:
    _, row = render(swipe(), LINK, agent_id="hq-lobby-1")
    parsed, legacy = parse(row), parse(LEGACY)

    assert parsed is not None
    assert (parsed.outbox_id, parsed.seq) == (None, None)
    assert parsed.follows(LINK.previous_chain)
    assert not parsed.follows("another")
    assert legacy is not None
    assert (legacy.outbox_id, legacy.seq) == ("0a1b2c3d4e5f", 7)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_any_text_of_the_configuration_comes_back_from_a_single_line(text: str) -> None:
    a_swipe = dataclasses.replace(swipe(), zone_id=text, badge_id=text)

    _, row = render(a_swipe, LINK, agent_id=text)

    assert b"\n" not in row
    assert {json.loads(row)[name] for name in ("zone_id", "badge_id", "agent_id")} == {text}


@given(st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1)))  # noqa: DTZ001 - hypothesis wants them naive
def test_a_time_is_written_with_microseconds_and_z_and_reads_back(moment: datetime) -> None:
    moment = moment.replace(tzinfo=UTC)

    text = iso((moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1))

    assert datetime.fromisoformat(text) == moment
    assert len(text) == len("2026-03-01T12:00:00.000000Z")
    assert text.endswith("Z")


def test_a_wait_within_one_boot_is_measured_by_the_boot_time_clock() -> None:
    _, row = render(swipe(), LINK, agent_id="hq-lobby-1")

    assert age_s(row, instant(wall_us=0, boot_ms=61_500)) == 1.5


def test_a_wait_across_a_reboot_is_measured_by_the_wall_clock_and_never_negative() -> None:
    _, row = render(swipe(), LINK, agent_id="hq-lobby-1")
    later = dataclasses.replace(instant(NOON_US + 90_000_000), boot_id="another")

    assert age_s(row, later) == 90.0
    assert age_s(row, dataclasses.replace(later, wall_us=0)) == 0.0
