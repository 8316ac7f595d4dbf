"""Doors that swiped: rows as the agent's own outbox makes them."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from agent import rows
from agent.clock.reading import ClockReading
from agent.outbox import LiveRows, Outbox
from agent.readers.events import raw_hex
from agent.swipe import CardCheck, CardRead, Swipe

BOOT_ID = "6f0c1d3e-5a7b-4c2d-9e8f-001122334455"
HOUR_S = 3600
_BOOTED_US = time.time_ns() // 1000 - 400 * 24 * HOUR_S * 1_000_000


def door_rows(
    directory: Path, agent_id: str, seconds_ago: Sequence[float], *, trusted: bool = True
) -> list[bytes]:
    """The rows of a new outbox with one swipe at each of these times, oldest first."""
    state_dir = directory / f"{agent_id}-{uuid.uuid4().hex}"
    state_dir.mkdir()
    outbox = Outbox(state_dir, agent_id=agent_id)
    try:
        outbox.keep(*(_swipe(number, ago, trusted) for number, ago in enumerate(seconds_ago, start=1)))
        batch = LiveRows(outbox).after((0, 0), len(seconds_ago), max_bytes=10_000_000)
        assert batch is not None
        return batch.rows
    finally:
        outbox.close()


def moved(lines: Sequence[bytes], outbox_id: str) -> list[bytes]:
    """The same events as rows of a new outbox, as after a restored backup."""
    chain, found = rows.first_link(outbox_id), []
    for seq, line in enumerate(lines, start=1):
        members = json.loads(line)
        chain, row = rows.with_position(members, rows.RowPosition(outbox_id, seq, members["event_id"], chain))
        found.append(row)
    return found


def _swipe(number: int, seconds_ago: float, trusted: bool) -> Swipe:  # noqa: FBT001 - private, one caller
    wall_us = time.time_ns() // 1000 - int(seconds_ago * 1e6)
    return Swipe(
        reader_id="RDR-101",
        zone_id="ZONE-LOBBY-1",
        direction="ENTRY",
        badge_id=f"123-{number}",
        user_id="UNKNOWN",
        card=CardRead(26, raw_hex(26, number), CardCheck.PARITY, "H10301", 123, number),
        read_at=ClockReading(wall_us, BOOT_ID, wall_us - _BOOTED_US, trusted),
    )
