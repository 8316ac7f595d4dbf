"""Print, inside a machine, how long each new swipe took from its reading to its row on the disk, in ms."""

from __future__ import annotations

import json
import sqlite3
import sys
import time
from contextlib import closing

_OUTBOX = "file:/var/lib/badge-agent/outbox.db?mode=ro"
_POLL_S = 0.001


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Watch for so many rows; a row is visible to another process after the flush of its commit."""
    count = int(sys.argv[1])
    with closing(sqlite3.connect(_OUTBOX, uri=True, isolation_level=None)) as outbox:
        (newest,) = outbox.execute("SELECT max(n) FROM swipes").fetchone()
        _write("watching")
        while count:
            now_ms = time.clock_gettime(time.CLOCK_BOOTTIME) * 1000
            for n, row in outbox.execute("SELECT n, row FROM swipes WHERE n > ?", (newest or 0,)):
                _write(f"{now_ms - json.loads(row)['boot_ms']:.1f}")
                newest, count = n, count - 1
            time.sleep(_POLL_S)


main()
