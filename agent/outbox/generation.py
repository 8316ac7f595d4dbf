"""A new generation: a new outbox id for pending rows; and the machine id that detects a copied card."""

from __future__ import annotations

import hashlib
import sqlite3
from pathlib import Path

from agent.errors import OutboxCorruptError
from agent.outbox.records import Generation, new_outbox_id
from agent.outbox.state import OutboxState


def renew(connection: sqlite3.Connection, state: OutboxState) -> None:
    """Give a new outbox id to every generation that has pending rows, or else to the next swipe.

    The first one begins after the last committed row. Small writes, whatever is pending: no row is
    changed. Runs within the caller's transaction.
    """
    sending = state.sending
    first_n = max(state.committed_n + 1, sending.first_n)
    # Where the generation begins at this row already, the row before it may be gone.
    before = sending.chain_before
    if first_n > sending.first_n:
        before = state.committed_chain or _chain_of(connection, state.committed_n)
    later = [one for one in state.generations if one.first_n > first_n]
    for new in (Generation(first_n, "", before), *later):
        add(connection, new._replace(outbox_id=new_outbox_id()))


def add(connection: sqlite3.Connection, new: Generation) -> None:
    """Store a generation, in place of one that begins with the same row."""
    connection.execute("INSERT OR REPLACE INTO generation VALUES (?, ?, ?, ?)", (*new, new.checksum))


def forget_old(connection: sqlite3.Connection, state: OutboxState) -> None:
    """Delete the generations of which no row is left, except those that have pending rows or will have.

    Nor that of the last channel: rows that it has committed meanwhile return to it (channel_use.switch).
    """
    ends = [later.first_n for later in state.generations[1:]]
    for old, end in zip(state.generations, ends, strict=False):
        if end > state.committed_n + 1 or old.first_n == state.record.channel_first_n:
            return
        found = connection.execute("SELECT 1 FROM swipes WHERE n >= ? AND n < ? LIMIT 1", (old.first_n, end))
        if found.fetchone() is None:
            connection.execute("DELETE FROM generation WHERE first_n = ?", (old.first_n,))


def _chain_of(connection: sqlite3.Connection, n: int) -> str:
    found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (n,)).fetchone()
    if found is None:
        raise OutboxCorruptError("its state is damaged: the chain of the last committed row is missing")
    return str(found[0])


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
