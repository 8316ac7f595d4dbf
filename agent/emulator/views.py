"""The account's views over the emulator's rows: the same SELECTs, with Snowflake's functions in Python."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from agent.emulator import event_loader
from agent.emulator.row_loader import TABLE
from agent.errors import AgentError
from agent.sql.plan import EXPECTED_TABLE
from agent.sql.views import (
    ANCHORS,
    CHAIN,
    EVENTS,
    FLEET,
    GAPS,
    LATENCY,
    METRICS,
    OPERATOR_ACTIONS,
    STATUS,
    Sources,
    View,
)

# The views of what the emulator has: no error table, and JSON as text.
SHOWN = (METRICS, ANCHORS, GAPS, CHAIN, STATUS, LATENCY, FLEET, OPERATOR_ACTIONS)

# The emulator stamps a row when it commits it, so its ingestion_time is the time of arrival.
# It has no purged rows: this table is empty.
_PURGED = "PURGED"
_EMPTY = f"CREATE TEMP TABLE {_PURGED} (outbox_id TEXT, up_to_seq INTEGER, chain TEXT);"

# A member of a JSON column with its cast, as in Snowflake's SQL.
_MEMBER = re.compile(r"((?:\w+\.)?(?:details|raw_json)):(\w+)::VARCHAR")
_SOURCES = Sources(
    table=TABLE,
    events=EVENTS.name,
    errors="",
    purged=_PURGED,
    anchors=ANCHORS.name,
    door_events=event_loader.TABLE,
    expected_doors=EXPECTED_TABLE,
    door_status=STATUS.name,
    arrived_at="ingestion_time",
    reported_at="ingestion_time",
)


@dataclass(frozen=True, slots=True)
class Result:
    """The rows of a view."""

    view: View
    columns: tuple[str, ...]
    rows: list[tuple[object, ...]]


def read_views(database: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> list[Result]:
    """Every view over the rows in a file of an emulator, which may be running; the newest events first.

    Raises AgentError.
    """
    try:
        with closing(sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            _add_functions(connection, now)
            connection.executescript(_EMPTY)
            for view in (EVENTS, ANCHORS, STATUS):  # others are based on them
                connection.execute(f"CREATE TEMP VIEW {view.name} AS {_select(view)}")
            return [
                _read(connection, EVENTS, f"SELECT * FROM {EVENTS.name} ORDER BY event_timestamp DESC"),  # noqa: S608 - our own name
                *(_read(connection, view, _select(view)) for view in SHOWN),
            ]
    except sqlite3.Error as error:
        raise AgentError(
            f"{database}: the views cannot be read: {error}",
            hint="Name the file snowflake.db in the directory that the emulator has as --state-dir.",
        ) from error


def _select(view: View) -> str:
    """The SELECT of a view, with SQLite's functions for members of a JSON text."""
    return _MEMBER.sub(r"CAST(json_extract(\1, '$.\2') AS TEXT)", view.select(_SOURCES))


def _read(connection: sqlite3.Connection, view: View, select: str) -> Result:
    cursor = connection.execute(select)
    return Result(view, tuple(column[0] for column in cursor.description), cursor.fetchall())


# --- Snowflake's functions, as far as the views use them; times are texts of one form ---------


def _add_functions(connection: sqlite3.Connection, now: Callable[[], datetime]) -> None:
    functions: dict[str, tuple[int, Callable[..., str | int | None]]] = {
        "SYSDATE": (0, lambda: _text(now().replace(tzinfo=None))),
        "DATE_TRUNC": (2, _date_trunc),
        "DATEADD": (3, _date_add),
        "DATEDIFF": (3, _date_diff),
        "GREATEST": (2, max),
        "SHA2": (2, _sha2),
        "TO_VARCHAR": (2, _to_varchar),
        "TRY_TO_NUMBER": (1, _try_to_number),
    }
    for name, (count, function) in functions.items():
        connection.create_function(name, count, _null_for_null(function))
    connection.create_aggregate("COUNT_IF", 1, _CountIf)


def _null_for_null(function: Callable[..., str | int | None]) -> Callable[..., str | int | None]:
    return lambda *values: None if None in values else function(*values)


class _CountIf:
    def __init__(self) -> None:
        self._count = 0

    def step(self, value: int | None) -> None:
        self._count += bool(value)

    def finalize(self) -> int:
        return self._count


def _text(moment: datetime) -> str:
    return moment.isoformat(" ", "microseconds")


def _date_trunc(part: str, text: str) -> str:
    if part.upper() != "HOUR":
        raise ValueError(f"DATE_TRUNC to {part}")
    return _text(datetime.fromisoformat(text).replace(minute=0, second=0, microsecond=0))


def _date_add(part: str, count: int, text: str) -> str:
    return _text(datetime.fromisoformat(text) + timedelta(**{f"{part}s": count}))


def _date_diff(part: str, start: str, end: str) -> int:
    """How many boundaries of the unit lie between two times: both are cut off, then subtracted."""
    unit = timedelta(**{f"{part}s": 1})
    origin = datetime(1970, 1, 1)  # noqa: DTZ001 - times without zone, as TIMESTAMP_NTZ
    first, last = ((datetime.fromisoformat(text) - origin) // unit for text in (start, end))
    return last - first


def _to_varchar(text: str, form: str) -> str:
    if form != "YYYY-MM-DD HH24:MI:SS.FF6":
        raise ValueError(f"TO_VARCHAR with the format {form}")
    return _text(datetime.fromisoformat(text))


def _try_to_number(text: str) -> int | None:
    try:
        return round(Decimal(text))
    except (ArithmeticError, ValueError):
        return None


def _sha2(text: str, bits: int) -> str:
    if bits != 256:  # noqa: PLR2004 - the one that the chain uses
        raise ValueError(f"SHA2 with {bits} bits")
    return hashlib.sha256(text.encode()).hexdigest()
