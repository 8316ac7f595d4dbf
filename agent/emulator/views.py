"""The account's views over the emulator's rows: the same SELECTs, with Snowflake's functions in Python."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.emulator.row_loader import TABLE
from agent.errors import AgentError
from agent.sql.views import CHAIN, EVENTS, GAPS, LATENCY, METRICS, STATUS, Sources, View

# The views of what the emulator has: no error table, no door events, and JSON as text.
SHOWN = (METRICS, GAPS, CHAIN, STATUS, LATENCY)

# The emulator stamps a row when it commits it, so its ingestion_time is the time of arrival.
# It has neither purged rows nor door events: these two are empty.
_PURGED, _ANCHORS = "PURGED", "V_ANCHORS"
_EMPTY = f"""
CREATE TEMP TABLE {_PURGED} (outbox_id TEXT, up_to_seq INTEGER, chain TEXT);
CREATE TEMP TABLE {_ANCHORS} (agent_id TEXT, outbox_id TEXT, seq INTEGER, chain TEXT, pending INTEGER);
"""
_SOURCES = Sources(
    table=TABLE,
    events=EVENTS.name,
    errors="",
    purged=_PURGED,
    anchors=_ANCHORS,
    door_events="",
    expected_doors="",
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
            connection.execute(f"CREATE TEMP VIEW {EVENTS.name} AS {EVENTS.select(_SOURCES)}")
            return [
                _read(connection, EVENTS, f"SELECT * FROM {EVENTS.name} ORDER BY event_timestamp DESC"),  # noqa: S608 - our own name
                *(_read(connection, view, view.select(_SOURCES)) for view in SHOWN),
            ]
    except sqlite3.Error as error:
        raise AgentError(
            f"{database}: the views cannot be read: {error}",
            hint="Name the file snowflake.db in the directory that the emulator has as --state-dir.",
        ) from error


def _read(connection: sqlite3.Connection, view: View, select: str) -> Result:
    cursor = connection.execute(select)
    return Result(view, tuple(column[0] for column in cursor.description), cursor.fetchall())


# --- Snowflake's functions, as far as the views use them; times are texts of one form ---------


def _add_functions(connection: sqlite3.Connection, now: Callable[[], datetime]) -> None:
    functions: dict[str, tuple[int, Callable[..., str | int]]] = {
        "SYSDATE": (0, lambda: _text(now().replace(tzinfo=None))),
        "DATE_TRUNC": (2, _date_trunc),
        "DATEADD": (3, _date_add),
        "DATEDIFF": (3, _date_diff),
        "GREATEST": (2, max),
        "SHA2": (2, _sha2),
        "TO_VARCHAR": (2, _to_varchar),
    }
    for name, (count, function) in functions.items():
        connection.create_function(name, count, _null_for_null(function))
    connection.create_aggregate("COUNT_IF", 1, _CountIf)


def _null_for_null(function: Callable[..., str | int]) -> Callable[..., str | int | None]:
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


def _sha2(text: str, bits: int) -> str:
    if bits != 256:  # noqa: PLR2004 - the one that the chain uses
        raise ValueError(f"SHA2 with {bits} bits")
    return hashlib.sha256(text.encode()).hexdigest()
