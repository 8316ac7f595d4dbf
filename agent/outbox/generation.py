"""A new outbox id for what is pending: when another history may have been sent under the old one."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Set as AbstractSet
from pathlib import Path

from agent import rows
from agent.outbox import schema
from agent.rows import members_of

_MOVE_ROWS = 1_000


def renew(connection: sqlite3.Connection, *, committed_n: int, last_n: int, aside: AbstractSet[int]) -> None:
    """Move pending rows behind `last_n`, under a new id, with a seq from 1 and the same event_id.

    Rows set aside stay where they are. What is no row of ours any more, because its bytes have
    changed on the disk, stays too, and is counted. Part of a transaction of the caller's.
    """
    new_id = schema.new_outbox_id()
    n, chain, at, unreadable = last_n, rows.first_link(new_id), committed_n, 0
    while some := connection.execute(
        "SELECT n, trusted_us, row, boot, boot_us FROM swipes WHERE n > ? AND n <= ? ORDER BY n LIMIT ?",
        (at, last_n, _MOVE_ROWS),
    ).fetchall():
        for old_n, trusted_us, row, *read_at in some:
            at = old_n
            if old_n in aside:
                continue
            members = members_of(row)
            if members is None:
                unreadable += 1
                continue
            n += 1
            chain, moved = rows.with_position(
                members, rows.RowPosition(new_id, n - last_n, members["event_id"], chain)
            )
            connection.execute(
                "INSERT INTO swipes VALUES (?, ?, ?, ?, ?, ?)", (n, chain, trusted_us, moved, *read_at)
            )
            connection.execute("DELETE FROM swipes WHERE n = ?", (old_n,))
    connection.execute(
        """UPDATE state SET outbox_id = ?, base = ?, committed_n = ?, committed_chain = '',
                            unreadable = unreadable + ?""",
        (new_id, last_n, last_n, unreadable),
    )


# A Raspberry Pi's own serial number comes first: the other file lies on the card and is copied with it.
_SOURCES = (Path("/proc/device-tree/serial-number"), Path("/etc/machine-id"))


def machine_id(sources: tuple[Path, ...] = _SOURCES) -> str:
    """16 hex digits that differ from machine to machine, or "" where nothing tells."""
    for source in sources:
        try:
            text = source.read_bytes().strip(b"\0\n ")
        except OSError:
            continue
        if text:
            # Hashed, because machine-id(5) asks not to hand it around as it is.
            return hashlib.sha256(b"badge-agent" + text).hexdigest()[:16]
    return ""
