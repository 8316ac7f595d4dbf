"""Outbox ids for recovered rows, within the caller's transaction."""

from __future__ import annotations

import sqlite3

from agent import rows
from agent.outbox import generation
from agent.outbox.records import Generation, new_outbox_id
from agent.outbox.state import OutboxState


def start_generation(connection: sqlite3.Connection, state: OutboxState, end_n: int) -> None:
    """New outbox ids for the recovered pending rows, up to `end_n`."""
    first_n = state.committed_n + 1
    new_id = new_outbox_id()
    before = next((one.chain_before for one in state.generations if one.first_n == first_n), None)
    if before is None:
        found = connection.execute("SELECT chain FROM swipes WHERE n = ?", (state.committed_n,)).fetchone()
        before = state.committed_chain or (str(found[0]) if found is not None else rows.UNKNOWN_LINK)
    later = [one for one in state.generations if first_n < one.first_n <= end_n]
    connection.execute("DELETE FROM generation WHERE first_n > ? AND first_n <= ?", (first_n, end_n))
    if connection.execute("SELECT 1 FROM swipes WHERE n BETWEEN ? AND ?", (first_n, end_n)).fetchone():
        generation.add(connection, Generation(first_n, new_id, before))
        for one in later:
            generation.add(connection, one._replace(outbox_id=new_outbox_id()))


def add_oldest_generation(connection: sqlite3.Connection) -> None:
    """An outbox id for committed rows whose generation is damaged: a replay needs one."""
    oldest = connection.execute("SELECT n, checksum FROM swipes ORDER BY n LIMIT 1").fetchone()
    (first_n,) = connection.execute("SELECT min(first_n) FROM generation").fetchone()
    if oldest is not None and oldest[1] is not None and oldest[0] < first_n:
        generation.add(connection, Generation(oldest[0], new_outbox_id(), rows.UNKNOWN_LINK))
