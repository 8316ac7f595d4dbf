"""A new outbox id with a million pending rows: one small write, while no swipe is stored."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from agent.outbox import LiveRows, Outbox
from bench.figures import Figure, percentile
from bench.keep import swipe

_PENDING = 1_000_000
_ROUNDS = 9
_TARGET_MS = 50.0


def run() -> list[Figure]:
    """The longest of some rounds; each renews the id of all pending rows and reads the first of them."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        outbox = Outbox(Path(name), agent_id="bench")
        for first in range(0, _PENDING, 1_000):
            outbox.keep(*(swipe(number) for number in range(first, first + 1_000)))
        times_ms = [_renewed_ms(outbox) for _ in range(_ROUNDS)]
        outbox.close()
    worst = max(times_ms)
    return [
        Figure(f"{_PENDING:,} pending, p50", f"{percentile(times_ms, 50):.1f} ms"),
        Figure("longest", f"{worst:.1f} ms", f"<= {_TARGET_MS:.0f} ms", worst <= _TARGET_MS),
    ]


def _renewed_ms(outbox: Outbox) -> float:
    begun = time.perf_counter()
    outbox.start_generation("a benchmark wants it")
    taken_ms = (time.perf_counter() - begun) * 1e3
    batch = LiveRows(outbox).after((0, 0), 1, max_bytes=1)
    if batch is None or outbox.outbox_id.encode() not in batch.rows[0]:
        raise ValueError("the first row is not sent with the new id")
    return taken_ms
