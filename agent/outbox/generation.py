"""A new generation: a new outbox id for pending rows; and the machine id that detects a copied card."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Set as AbstractSet
from pathlib import Path

from agent import rows
from agent.outbox import schema

_MOVE_ROWS = 1_000


def renew(connection: sqlite3.Connection, *, committed_n: int, last_n: int, aside: AbstractSet[int]) -> None:
    """Move pending rows after `last_n`, under a new id, with a seq from 1 and the same event_id.

    Rows set aside keep their numbers. So do rows whose bytes were damaged on the disk, which are
    counted as unreadable. Runs within the caller's transaction.
    """
    new_id = schema.new_outbox_id()
    n, chain, read_n, unreadable = last_n, rows.first_link(new_id), committed_n, 0
    while chunk := connection.execute(
        "SELECT n, trusted_us, row, boot, boot_us FROM swipes WHERE n > ? AND n <= ? ORDER BY n LIMIT ?",
        (read_n, last_n, _MOVE_ROWS),
    ).fetchall():
        for old_n, trusted_us, row, *read_at in chunk:
            read_n = old_n
            if old_n in aside:
                continue
            parsed = rows.parse(row)
            if parsed is None:
                unreadable += 1
                continue
            n += 1
            chain, moved = parsed.moved(new_id, n - last_n, chain)
            connection.execute(
                "INSERT INTO swipes VALUES (?, ?, ?, ?, ?, ?)", (n, chain, trusted_us, moved, *read_at)
            )
            connection.execute("DELETE FROM swipes WHERE n = ?", (old_n,))
    connection.execute(
        """UPDATE state SET outbox_id = ?, base = ?, committed_n = ?, committed_chain = '',
                            unreadable = unreadable + ?""",
        (new_id, last_n, last_n, unreadable),
    )


# A Raspberry Pi's serial number comes first: the machine id is a file on the card and is copied with it.
_SOURCES = (Path("/proc/device-tree/serial-number"), Path("/etc/machine-id"))


def machine_id(sources: tuple[Path, ...] = _SOURCES) -> str:
    """16 hex digits that differ between machines, or "" where there is no source."""
    for source in sources:
        try:
            text = source.read_bytes().strip(b"\0\n ")
        except OSError:
            continue
        if text:
            # Hashed: machine-id(5) requires that the plain value is not exposed.
            return hashlib.sha256(b"badge-agent" + text).hexdigest()[:16]
    return ""
