"""Single swipes of an outbox, for a person who watches the door; read from another process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from agent import rows
from agent.outbox.external.connection import one_number, outbox_connection
from agent.outbox.external.steps import rows_between
from agent.outbox.state import OutboxState
from agent.outbox.timing.timestamps import STORED, Columns, is_intact
from agent.rows import RowSummary

Place = Literal["on disk", "in Snowflake", "set aside"]


@dataclass(frozen=True, slots=True)
class KeptSwipe:
    """A swipe in the outbox; `seq` is None for a row of an outbox id that is forgotten."""

    n: int
    seq: int | None
    place: Place
    row: RowSummary = field(repr=False)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an outbox is: the number of its newest row, and of the last one that Snowflake confirmed."""

    last_n: int
    committed_n: int


def progress_of(state_dir: Path) -> Progress:
    """Raises OutboxError if there is no outbox, NotPermittedError."""
    with outbox_connection(state_dir, "ro") as connection:
        connection.execute("BEGIN")  # one snapshot for both queries
        committed_n = OutboxState.read(connection).committed_n
        return Progress(one_number(connection, "SELECT max(n) FROM swipes") or committed_n, committed_n)


def newest_swipes(state_dir: Path, limit: int) -> list[KeptSwipe]:
    """The newest swipes, newest first; damaged rows are left out. Raises as progress_of()."""
    with outbox_connection(state_dir, "ro") as connection:
        connection.execute("BEGIN")
        state = OutboxState.read(connection)
        found = connection.execute(
            f"SELECT {STORED} FROM swipes ORDER BY n DESC LIMIT ?", (limit,)
        ).fetchall()
    return [swipe for stored in found if (swipe := _swipe(state, stored, state.committed_n)) is not None]


def swipes_between(state_dir: Path, first_n: int, last_n: int, progress: Progress) -> Iterator[KeptSwipe]:
    """The swipes with these numbers, both included, in order, with their places at the time of `progress`.

    Reads in short steps. Raises as progress_of().
    """
    with outbox_connection(state_dir, "ro") as connection:
        state = OutboxState.read(connection)
        for stored in rows_between(connection, first_n, last_n):
            swipe = _swipe(state, stored, progress.committed_n)
            if swipe is not None:
                yield swipe


def _swipe(state: OutboxState, stored: Columns, committed_n: int) -> KeptSwipe | None:
    n, row = stored[0], stored[3]
    summary, position = rows.summary_of(row), state.position_of(n)
    if summary is None or not is_intact(stored, state.record.legacy_n):
        return None
    place: Place = "in Snowflake" if n <= committed_n else "on disk"
    if n in state.set_aside_numbers:
        place = "set aside"
    return KeptSwipe(n, position.seq if position is not None else None, place, summary)
