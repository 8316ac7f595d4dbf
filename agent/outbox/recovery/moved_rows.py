"""Reads which rows are in the new file by now."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent import rows
from agent.outbox.database import open_external
from agent.outbox.records import Generation
from agent.outbox.recovery.holes import row_numbers


class MovedRows:
    """The rows of the new file, read through a connection of its own: a long query delays no other thread.

    Every method raises OutboxError or sqlite3.Error; close() closes the connection, the next call opens it.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def select(self, query: str, *values: object) -> list[Any]:
        """All rows of a query."""
        if self._connection is None:
            self._connection = open_external(self._state_dir, "ro")
        return self._connection.execute(query, values).fetchall()

    def number(self, query: str, *values: object) -> int:
        """The number that a query returns; 0 for NULL."""
        return int(self.select(query, *values)[0][0] or 0)

    def among(self, numbers: list[int]) -> set[int]:
        """Those of the numbers that have a row."""
        marks = ", ".join("?" * len(numbers))
        return {n for (n,) in self.select(f"SELECT n FROM swipes WHERE n IN ({marks})", *numbers)}

    def has_all(self, numbers: list[int]) -> bool:
        """Whether every number has a row."""
        return self.among(numbers) == set(numbers)

    def has_page(self, page: bytes) -> bool:
        """Whether every row of a page of the quarantined file is in the new file; False for other pages."""
        numbers = row_numbers(page)
        return bool(numbers) and self.has_all(numbers)

    def ends(self, before_n: int) -> list[tuple[int, str]]:
        """Number and chain of the rows after which a number is missing."""
        return self.select(
            """SELECT n, chain FROM swipes AS one WHERE n < ?
               AND NOT EXISTS (SELECT 1 FROM swipes WHERE n = one.n + 1)""",
            before_n,
        )

    def gaps(self, first_n: int, last_n: int) -> list[tuple[int, int]]:
        """The ranges of numbers that have no row."""
        return self.select(
            """SELECT before + 1, n - 1 FROM
                 (SELECT n, lag(n, 1, ?1 - 1) OVER (ORDER BY n) AS before FROM
                   (SELECT n FROM swipes WHERE n BETWEEN ?1 AND ?2 UNION ALL SELECT ?2 + 1))
               WHERE n > before + 1""",
            first_n,
            last_n,
        )

    def bases(self, generations: Iterable[Generation], legacy_n: int) -> dict[str, int]:
        """What is added to a seq of schemas 1-3 to get `n`, by outbox id: of `generations`, and of the newest
        row that was stored with such a schema, which has a number up to `legacy_n`.
        """
        bases = {one.outbox_id: one.first_n - 1 for one in generations}
        newest = self.select(
            "SELECT n, row FROM swipes WHERE n <= ? AND checksum IS NULL ORDER BY n DESC LIMIT 1", legacy_n
        )
        for n, row in newest:
            parsed = rows.parse(row)
            if parsed is not None and parsed.outbox_id is not None and parsed.seq is not None:
                bases[parsed.outbox_id] = n - parsed.seq
        return bases
