"""A disk that cannot read one sector costs the rows in that sector, and nothing else."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from tests.support.failing_disk import FailingDisk
from tests.support.outbox_rig import keep, opened

ROWS = 400
_CARDS = "print(json.dumps([int(row['card_raw'], 16) for row in stored(state_dir)]))"


def filled(state_dir: Path) -> bytes:
    """The content of a closed outbox."""
    with closing(opened(state_dir)) as outbox:
        keep(outbox, ROWS)
    return (state_dir / "outbox.db").read_bytes()


def start_and_keep(disk: FailingDisk) -> list[int]:
    """Start, keep one more swipe; the cards that are in the file then."""
    cards: list[int] = json.loads(
        disk.run(f"with closing(opened(state_dir)) as outbox:\n    outbox.keep(swipe({ROWS + 1}))\n{_CARDS}")
    )
    return cards


@pytest.mark.parametrize("part", [0.0, 0.2, 0.4, 0.6, 0.8, 0.99])
def test_an_unreadable_sector_costs_the_rows_in_it_only(disk: FailingDisk, part: float) -> None:
    content = filled(disk.state_dir)
    sector = int(len(content) * part) // 512 * 512
    disk.fail("r", "outbox.db", sector, sector + 511)

    cards = start_and_keep(disk)

    page = content[sector // 4096 * 4096 :][:4096]
    assert set(cards) >= set(range(1, ROWS + 2)) - set(_cards_in(page))
    assert len(cards) == len(set(cards))
    assert cards[-1] == ROWS + 1


def test_a_sector_that_becomes_unreadable_while_the_agent_runs_stops_nothing(disk: FailingDisk) -> None:
    content = filled(disk.state_dir)
    place = content.index(b'"card_raw":"00000000C8"')

    cards = json.loads(
        disk.run(
            f"""
from agent.errors import OutboxReplacedError
with closing(opened(state_dir)) as outbox:
    disk.fail("r", "outbox.db", {place}, {place})
    try:
        rows_after(outbox)
    except OutboxReplacedError:
        pass
    outbox.keep(swipe({ROWS + 1}))
    recover(outbox)
{_CARDS}"""
        )
    )

    assert ROWS + 1 in cards
    assert len(set(cards)) >= ROWS - 20


def test_unreadable_sectors_of_the_log_cost_the_rows_in_them_only(disk: FailingDisk) -> None:
    disk.run(
        f"""
import os
outbox = opened(state_dir)
keep(outbox, {ROWS})
outbox.keep(swipe(7))
os._exit(0)"""
    )
    log = (disk.state_dir / "outbox.db-wal").read_bytes()
    place = log.index(b'"card_raw":"00000000C8"') // 512 * 512
    disk.fail("r", "outbox.db-wal", place, place + 511)

    cards = start_and_keep(disk)

    assert len(set(cards)) >= ROWS - 20
    assert ROWS + 1 in cards


def test_a_disk_that_reads_nothing_is_no_damaged_file(disk: FailingDisk) -> None:
    filled(disk.state_dir)
    disk.fail("r", "outbox.db")

    said = disk.run(
        """
from agent.errors import OutboxError
try:
    opened(state_dir)
except OutboxError as error:
    print(error.hint)
"""
    )

    assert "no sector of it can be read" in said
    assert not list(disk.state_dir.glob("*.corrupt-*"))
    disk.recover()
    assert len(start_and_keep(disk)) == ROWS + 1


def _cards_in(page: bytes) -> list[int]:
    """The cards whose rows have a byte in this page, as far as their number is in it, and both neighbours."""
    found = [int(part[:10], 16) for part in page.split(b'"card_raw":"')[1:] if len(part) >= 10]
    return [*range(min(found) - 1, max(found) + 2)] if found else []
