"""Recovery of a damaged outbox with 1,000,000 pending rows: how long a swipe waits meanwhile."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agent.outbox import Outbox
from agent.outbox.database import OUTBOX_FILE, PAGE_BYTES
from agent.outbox.recovery.quarantine import copies
from agent.service.inspector import Inspector
from bench.drain import fill
from bench.figures import Figure, percentile
from bench.keep import swipe
from tests.support.agent_process import AGENT_ID

_ROWS, _DAMAGED_PAGES = 1_000_000, 20
_PAUSE_S = 0.02
_LONGEST_WAIT_MS = 100.0


def run() -> list[Figure]:
    """The inspector's thread as in the agent, and a thread that stores swipes one by one."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        state_dir = Path(name)
        fill(state_dir, _ROWS)
        file_bytes = (state_dir / OUTBOX_FILE).stat().st_size
        _damage(state_dir)
        outbox = Outbox(state_dir, agent_id=AGENT_ID)
        inspector = Inspector(outbox, recovered=lambda: None)
        thread = threading.Thread(target=inspector.run, args=(lambda _busy: None,))
        thread.start()
        begun = time.monotonic()
        waits_ms, found_at = _keep_until(
            outbox, lambda: bool(copies(state_dir)) and not outbox.state.recoveries
        )
        total_s = time.monotonic() - found_at
        inspector.stop()
        thread.join()
        lost = _ROWS + len(waits_ms) - outbox.pending
        new_bytes = (state_dir / OUTBOX_FILE).stat().st_size
        outbox.close()
    longest = max(waits_ms)
    return [
        Figure("integrity check", f"{found_at - begun:.0f} s"),
        Figure(f"recovery of {_ROWS:,} rows", f"{total_s:.0f} s"),
        Figure("swipes stored meanwhile", f"{len(waits_ms):,}"),
        Figure("wait of a swipe, p99", f"{percentile(waits_ms, 99):.1f} ms"),
        Figure(
            "longest wait of a swipe",
            f"{longest:.0f} ms",
            f"<= {_LONGEST_WAIT_MS:.0f} ms",
            longest <= _LONGEST_WAIT_MS,
        ),
        Figure(f"rows lost in {_DAMAGED_PAGES} damaged pages", str(lost)),
        Figure("size of the file, before and after", f"{file_bytes / 1e6:.0f} MB, {new_bytes / 1e6:.0f} MB"),
    ]


def _damage(state_dir: Path) -> None:
    """Pages of zeros at equal distances."""
    path = state_dir / OUTBOX_FILE
    pages = path.stat().st_size // PAGE_BYTES
    with path.open("r+b") as file:
        for index in range(_DAMAGED_PAGES):
            file.seek((pages // 2 + index * (pages // 2 // _DAMAGED_PAGES)) * PAGE_BYTES)
            file.write(bytes(PAGE_BYTES))


def _keep_until(outbox: Outbox, is_done: Callable[[], bool]) -> tuple[list[float], float]:
    """Store swipes until all is recovered; how long each took from the damage on, and when it was found."""
    waits_ms: list[float] = []
    found_at, number = 0.0, 0
    while not is_done():
        begun = time.monotonic()
        outbox.keep(swipe(number))
        ended = time.monotonic()
        number += 1
        if outbox.state.recoveries and not found_at:
            found_at = begun
        waits_ms.append((ended - begun) * 1e3)
        time.sleep(_PAUSE_S)
    return waits_ms, found_at
