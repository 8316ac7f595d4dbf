"""badge-agent verify: exported rows against their chain and the signed heartbeats of their door."""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from agent import event_rows
from agent.cli.verify import command
from agent.event_rows import Anchor
from agent.keys.keypair import KeyPair, new_key
from agent.rows import UNKNOWN_LINK, chain_hash, person_digest
from tests.sql.doors import Door
from tests.support.events import event

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def key() -> KeyPair:
    return new_key()


@pytest.fixture
def key_file(tmp_path: Path, key: KeyPair) -> Path:
    path = tmp_path / "door.pub"
    path.write_text(key.public_key_pem)
    return path


@pytest.fixture
def door(key: KeyPair) -> Door:
    """Ten swipes, the last two after the last heartbeat, under two outbox ids."""
    door = Door("hq-lobby-1")
    for number in range(4):
        door.swipe(100 - number)
    door.sent.append(signed(door, key))
    door.new_generation()
    for number in range(4):
        door.swipe(50 - number)
    door.sent.append(signed(door, key))
    door.swipe(2)
    door.swipe(1)
    return door


def signed(door: Door, key: KeyPair, *, pending: int = 0) -> bytes:
    row = json.loads(door.heartbeat(pending))
    details = row["details"]
    anchor = Anchor(door.outbox_id, details["seq"], details["chain"], row["at"])
    details["signature"] = base64.b64encode(key.sign(anchor.signed_bytes)).decode()
    return json.dumps(row).encode()


def rows_of(door: Door) -> Rows:
    return [json.loads(row) for row in door.sent]


def verify(tmp_path: Path, rows: Rows, key_file: Path | None, *options: str) -> Result:
    path = tmp_path / "rows.ndjson"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return run(path, key_file, *options)


def run(path: Path, key_file: Path | None, *options: str) -> Result:
    key = ["--public-key", str(key_file)] if key_file else []
    return CliRunner().invoke(command, [str(path), *key, *options], standalone_mode=False)


def as_table(rows: Rows) -> Rows:
    """The rows as the tables have them, with the name of a column in upper case."""
    table = []
    for row in rows:
        member = "at" if "kind" in row else "event_timestamp"
        time = row[member].replace("T", " ").rstrip("Z")
        columns = {name: value for name, value in row.items() if name != member}
        columns |= {"event_timestamp": time[:-3], "raw_json": json.dumps(row), "signal_strength": -999}
        if "details" in row:
            columns["details"] = json.dumps(dict(sorted(row["details"].items())))
        table.append({name.upper(): value for name, value in columns.items()})
    return table


def test_rows_that_fit_are_told_so(tmp_path: Path, door: Door, key_file: Path) -> None:
    result = verify(tmp_path, rows_of(door)[::-1], key_file)

    assert result.return_value == 0
    assert result.output.count("ok ") == 2
    assert "6 rows, seq 1 to 6" in result.output
    assert "they confirm the rows up to seq 4" in result.output
    assert "2 rows after that are not confirmed yet" in result.output


def test_a_csv_file_of_snowflake_is_read_whose_times_are_shortened(
    tmp_path: Path, door: Door, key_file: Path
) -> None:
    table, path = as_table(rows_of(door)), tmp_path / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted({name for row in table for name in row}))
        writer.writeheader()
        writer.writerows(table)

    result = run(path, key_file, "--json")

    assert result.return_value == 0, result.output
    assert [one["rows"] for one in json.loads(result.output)] == [4, 6]


def altered(rows: Rows) -> str:
    rows[2]["badge_id"] = "123-999"
    return "seq 3"


def removed(rows: Rows) -> str:
    del rows[2]
    return "seq 3 is missing"


def removed_at_the_end(rows: Rows) -> str:
    del rows[3]
    return "seq 4 is missing"


def swapped(rows: Rows) -> str:
    rows[1]["seq"], rows[2]["seq"] = 3, 2
    return "seq 2"


def computed_again(rows: Rows) -> str:
    """Who has no key changes a row, and computes the chain of all later ones again."""
    rows[1]["reader_id"] = "RDR-999"
    before = rows[0]["chain"]
    for row in rows[1:4]:
        row["chain"] = before = chain_hash(before, row)
    return "seq 4 has another chain than in the heartbeat"


def computed_again_with_the_heartbeat(rows: Rows) -> str:
    computed_again(rows)
    rows[4]["details"]["chain"] = rows[3]["chain"]
    return "has no valid signature"


def differing_copy(rows: Rows) -> str:
    rows.append(rows[1] | {"user_id": "E-0001", "replay": True})
    return "seq 2"


CHANGES = (
    *(altered, removed, removed_at_the_end, swapped),
    *(computed_again, computed_again_with_the_heartbeat, differing_copy),
)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("form", [list, as_table])
def test_the_first_row_that_does_not_fit_is_named(
    tmp_path: Path, door: Door, key_file: Path, change: Callable[[Rows], str], form: Callable[[Rows], Rows]
) -> None:
    rows = rows_of(door)
    named = change(rows)

    result = verify(tmp_path, form(rows), key_file)

    assert result.return_value == 1
    first, second = result.output.split("hq-lobby-1")[1:]
    assert named in first
    assert "ok" in first.splitlines()[-1]
    assert "seq 1 to 6" in second


def test_a_first_row_whose_previous_chain_damage_has_taken_is_named_as_not_checked(
    tmp_path: Path, door: Door, key_file: Path
) -> None:
    rows = rows_of(door)
    rows[0] |= {"chain_before": UNKNOWN_LINK, "zone_id": "before the damage"}

    result = verify(tmp_path, rows, key_file)

    assert result.return_value == 0
    assert "damage has taken the chain before its first row" in result.output


def test_a_replayed_copy_and_an_erased_person_fit(tmp_path: Path, door: Door, key_file: Path) -> None:
    rows = rows_of(door)
    rows.append(rows[1] | {"replay": True})
    erased = rows[2]
    erased["person_digest"] = person_digest(erased)
    erased |= {"badge_id": "ERASED", "user_id": "ERASED"}
    for name in ("person_salt", "card_bits", "card_raw"):
        del erased[name]

    assert verify(tmp_path, rows, key_file).return_value == 0

    erased["badge_id"] = "123-4"
    assert verify(tmp_path, rows, key_file).return_value == 1


def test_door_events_are_a_chain_of_their_own(tmp_path: Path, key_file: Path) -> None:
    rows: Rows = []
    chain = "0" * 12
    for number in range(1, 4):
        chain, row = event_rows.render(
            event(number), event_id=f"id-{number}", agent_id="door", previous_chain=chain
        )
        rows.append(json.loads(row) | {"outbox_id": "0" * 12, "seq": number})

    assert verify(tmp_path, rows, key_file).return_value == 0
    assert verify(tmp_path, as_table(rows), key_file).return_value == 0

    rows[1]["actor"] = "mallory"
    assert "seq 2 (event_id id-2) is altered" in verify(tmp_path, rows, key_file).output


def test_without_a_key_the_signatures_are_not_checked_and_that_is_said(tmp_path: Path, door: Door) -> None:
    result = verify(tmp_path, rows_of(door), None)

    assert result.return_value == 0
    assert "signatures are not checked: give --public-key" in result.output


def test_a_part_of_the_rows_is_checked_from_its_second_row_on(
    tmp_path: Path, door: Door, key_file: Path
) -> None:
    rows = [row for row in rows_of(door) if row.get("seq", 0) not in {1, 2}]

    result = verify(tmp_path, rows, key_file)

    assert result.return_value == 0
    assert "begins with seq 3" in result.output


@pytest.mark.parametrize(
    "text", ["", "seq,chain\n", "[1]\n", '{"seq"\n', "{}\n[1]\n", '{"outbox_id": "a"}\n']
)
def test_other_files_are_no_proof(tmp_path: Path, key_file: Path, text: str) -> None:
    path = tmp_path / "other"
    path.write_text(text)

    result = run(path, key_file)

    assert result.return_value != 0
    assert result.exception is None or "cannot be read" in str(result.exception)
