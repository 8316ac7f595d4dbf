"""The table `boots`: clock observations per boot, as stored."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from collections.abc import Iterable
from types import UnionType
from typing import Any

from agent.clock.offset_model import Boot, OffsetSample
from agent.errors import OutboxCorruptError

COLUMNS = "number, boot_id, begins_us, last_us, earliest_us, hint_us, trusted, points"


def read(connection: sqlite3.Connection) -> list[Boot]:
    """All boots in order; `last_us` of the last one includes its newest row.

    Raises OutboxCorruptError for values that were never stored.
    """
    found = connection.execute(f"SELECT {COLUMNS} FROM boots ORDER BY number")
    known = [_boot(columns) for columns in found]
    newest = connection.execute("SELECT boot, boot_us FROM swipes ORDER BY n DESC LIMIT 1").fetchone()
    match newest:
        # A damaged row, which its checksum reveals when it is sent, may have no such columns.
        case (int(number), int(boot_us)) if known and number == known[-1].number:
            known[-1] = dataclasses.replace(known[-1], last_us=max(known[-1].last_us, boot_us))
    return known


def write(connection: sqlite3.Connection, boots: Iterable[Boot]) -> None:
    """Insert or replace these boots; runs within the caller's transaction."""
    connection.executemany(
        "INSERT OR REPLACE INTO boots VALUES (?, ?, ?, ?, ?, ?, ?, ?)", map(_columns, boots)
    )


def last_number(connection: sqlite3.Connection) -> int:
    """The newest boot number in the rows; a damaged file may have lost the boot itself."""
    found = connection.execute(
        "SELECT boot FROM swipes WHERE typeof(boot) = 'integer' ORDER BY n DESC LIMIT 1"
    ).fetchone()
    return found[0] if found else 0


def forget_old(connection: sqlite3.Connection, committed_n: int) -> None:
    """Delete boots without a pending row; the lower bound of a later boot is stored with that boot.

    Rows of older schemas have no boot: then all boots stay.
    """
    oldest = connection.execute(
        "SELECT boot FROM swipes WHERE n > ? ORDER BY n LIMIT 1", (committed_n,)
    ).fetchone()
    connection.execute(
        "DELETE FROM boots WHERE number < ? AND number < (SELECT max(number) FROM boots)",
        (math.inf if oldest is None else oldest[0],),
    )


def is_boot(columns: tuple[Any, ...]) -> bool:
    """Whether these can be the columns of a boot, apart from the text of its points."""
    return all(map(isinstance, columns, _KINDS))


_KINDS: tuple[type | UnionType, ...] = (int, str, int, int, int, int | None, int, str)


def _boot(columns: tuple[Any, ...]) -> Boot:
    if not is_boot(columns):
        raise OutboxCorruptError("outbox: the stored clock observations are damaged")
    number, boot_id, begins_us, last_us, earliest_us, untrusted_us, trusted, points = columns
    return Boot(
        number, boot_id, begins_us, last_us, earliest_us, untrusted_us, bool(trusted), points_of(points)
    )


def _columns(boot: Boot) -> tuple[object, ...]:
    """The columns of a boot, in the order of the table."""
    return (
        *(
            boot.number,
            boot.boot_id,
            boot.begins_us,
            boot.last_us,
            boot.earliest_us,
            boot.untrusted_offset_us,
        ),
        *(int(boot.trusted), text_of(boot.points)),
    )


def points_of(text: str) -> tuple[OffsetSample, ...]:
    """Points from their JSON. Raises OutboxCorruptError for damaged text."""
    try:
        return tuple(_point(*point) for point in json.loads(text))
    except (ValueError, TypeError) as error:
        raise OutboxCorruptError("outbox: the stored clock observations are damaged") from error


def _point(boot_us: object, offset_us: object, error_us: object, sure: object = None) -> OffsetSample:
    """One point; without `sure`, as earlier agents wrote it, an error of 0 means so. Raises ValueError."""
    if type(boot_us) is type(offset_us) is int and (error_us is None or type(error_us) is int):
        is_sure = error_us == 0 if sure is None else sure
        if isinstance(is_sure, bool):
            return OffsetSample(boot_us, offset_us, error_us, is_sure)
    raise ValueError("not a point")


def text_of(points: tuple[OffsetSample, ...]) -> str:
    """Points as JSON: [[boot_us, offset_us, error_us, sure], ...]."""
    return json.dumps([dataclasses.astuple(point) for point in points], separators=(",", ":"))
