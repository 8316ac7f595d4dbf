"""Reads rows in short steps: a reader that pauses has no transaction open, which would let the WAL grow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from agent.outbox.timing.timestamps import STORED, StoredRow

# About 1 MB of rows and 10 ms; the agent's checkpoints wait no longer than that.
_ROWS_PER_STEP = 1000


def rows_between(
    connection: sqlite3.Connection, first_n: int, last_n: int, condition: str = "TRUE", *values: object
) -> Iterator[StoredRow]:
    """The rows with these numbers, both included, that meet an SQL condition; in order.

    Each step reads what is stored at its time: rows purged between two steps are missing. `values` are
    the parameters of the condition from ?3 on.
    """
    query = (
        f"SELECT {STORED} FROM swipes WHERE n BETWEEN ?1 AND ?2 AND {condition}"
        f" ORDER BY n LIMIT {_ROWS_PER_STEP}"
    )
    while step := connection.execute(query, (first_n, last_n, *values)).fetchall():
        yield from map(StoredRow._make, step)
        if len(step) < _ROWS_PER_STEP:
            return
        first_n = step[-1][0] + 1
