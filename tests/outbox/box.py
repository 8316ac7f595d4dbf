"""An outbox to test, and what stands in it as a test wants to see it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from agent.outbox import Outbox
from tests.swipes import NOON_US, instant, swipe

PLENTY = 1_000_000


def opened(state_dir: Path) -> Outbox:
    return Outbox(state_dir, agent_id="hq-lobby-1")


def rows_after(outbox: Outbox, seq: int = 0) -> list[dict[str, Any]]:
    batch = outbox.after(seq, PLENTY, max_bytes=10**9)
    return [json.loads(row) for row in batch.rows] if batch else []


def keep(outbox: Outbox, count: int) -> None:
    outbox.keep(*(swipe(value) for value in range(1, count + 1)))


def keep_read_at(outbox: Outbox, *reads: tuple[int, bool]) -> None:
    """Swipes read so many seconds after noon, under a trusted clock or another."""
    outbox.keep(*(swipe(read_at=instant(NOON_US + s * 1_000_000, trusted=trusted)) for s, trusted in reads))


def purge(outbox: Outbox, seconds: int) -> int:
    """Purge what was read earlier than so many seconds after noon."""
    return outbox.purge(kept_since_us=NOON_US + seconds * 1_000_000)
