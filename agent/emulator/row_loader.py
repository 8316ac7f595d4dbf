"""The pipes' SELECTs: lines of NDJSON to rows of RAW_BADGE_EVENTS, skipping what COPY would skip; pure.

A pipe that was created has the SELECT of `badge-agent sql`. Two things of the demo's pipe are not
repeated: it lists direction and signal_quality in the other order than the table, and it rounds
signal_strength to whole numbers. The table's default pipe has no SELECT: it takes each column from the
member of the same name, and what has no member is NULL, also where the column has a default.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import lru_cache
from operator import itemgetter
from typing import Any

import orjson

from agent.sql.columns import COLUMNS as TABLE_COLUMNS
from agent.sql.columns import NAME_LENGTH, SENT, SHORT_LENGTH

TABLE = "RAW_BADGE_EVENTS"
DEFAULT_PIPE = f"{TABLE}-STREAMING"  # exists for every table without being created

NO_SIGNAL = -999  # NVL(signal_strength, -999)
WEAK_BELOW, MEDIUM_BELOW = -80, -60  # dBm
MAX_SIGNAL = 1000  # NUMBER(5,2) holds -999.99 .. 999.99

# NUMBER(38,0) in the service; here a whole number has to fit SQLite's 64 bits.
MAX_WHOLE = 2**63 - 1

_USUAL_LENGTH = len("2026-01-31T12:00:00.000000Z")

_NAMES = tuple(column.name for column in TABLE_COLUMNS if column.type.startswith(f"VARCHAR({NAME_LENGTH})"))
_REST = tuple(column.name for column in SENT)
_WHOLE = frozenset(column.name for column in SENT if column.type.startswith("NUMBER"))
_whole_of = itemgetter(*(place for place, name in enumerate(_REST) if name in _WHOLE))
_FIELDS = (*_NAMES, "event_timestamp", "signal_strength", "direction", *_REST)

# The columns that a row fills, in the order of the values in Row.
COLUMNS = (
    *_NAMES,
    "event_timestamp",
    "signal_strength",
    "signal_quality",
    "direction",
    *_REST,
    "raw_json",
    "ingestion_time",
    "pipe_name",
    "channel_name",
    "offset_token",
)

Row = tuple[object, ...]
Rejects = Callable[[dict[str, Any]], bool]
ToRow = Callable[[bytes, Row, Rejects | None], Row]


@dataclass(slots=True)
class Loaded:
    """The result of loading a body: rows for the table, skipped rows, the reason of the last skip."""

    rows: list[Row] = field(default_factory=list)
    errors: int = 0
    last_error: str | None = None


class SkipError(Exception):
    """The line cannot be loaded; the text names the column, never the value."""


def load(body: bytes, origin: Row, rejects: Rejects | None = None, to_row: ToRow | None = None) -> Loaded:
    """Rows of an NDJSON body, each ending in `origin` (ingestion_time, pipe, channel, offset token).

    `to_row`: the pipe's SELECT; by default that of the pipe in `origin`, for swipes. Blank lines are ignored;
    lines that violate a constraint, or that `rejects` selects, are counted.
    """
    to_row = to_row or (_matched_row if origin[1] == DEFAULT_PIPE else _row)
    loaded = Loaded()
    add = loaded.rows.append
    for line in body.split(b"\n"):
        if not line or line.isspace():
            continue
        try:
            add(to_row(line, origin, rejects))
        except SkipError as skipped:
            loaded.errors += 1
            loaded.last_error = str(skipped)
    return loaded


def count(body: bytes) -> int:
    """How many rows an NDJSON body holds, good or bad."""
    return sum(1 for line in body.split(b"\n") if line and not line.isspace())


def records(body: bytes) -> list[dict[str, Any]]:
    """The JSON objects of an NDJSON body, without the lines that are none."""
    found = []
    for line in body.split(b"\n"):
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            continue
        if isinstance(record, dict):
            found.append(record)
    return found


def _row(line: bytes, origin: Row, rejects: Rejects | None) -> Row:
    record = record_of(line, rejects)
    values: tuple[Any, ...] = tuple(map(record.get, _FIELDS))
    if not _plain(tuple(map(type, values))):
        values = _cast(values)
    badge, user, zone, reader, timestamp, strength, direction, *rest = values
    _check_sizes(values, rest)
    return (
        badge,
        user,
        zone,
        reader,
        as_timestamp("EVENT_TIMESTAMP", timestamp),
        *_signal(strength),
        None if direction is None else _direction(direction),
        *rest,
        line.decode(),
        *origin,
    )


def _matched_row(line: bytes, origin: Row, rejects: Rejects | None) -> Row:
    """A row of the default pipe: columns by the names of the members, whatever their case."""
    record = record_of(line, rejects)
    members = {name.lower(): value for name, value in record.items()}
    values = _cast(tuple(map(members.get, _FIELDS)))
    badge, user, zone, reader, timestamp, strength, direction, *rest = values
    _check_sizes(values, rest)
    quality, raw, ingested = (members.get(name) for name in ("signal_quality", "raw_json", "ingestion_time"))
    return (
        badge,
        user,
        zone,
        reader,
        as_timestamp("EVENT_TIMESTAMP", timestamp),
        None if strength is None else _strength(strength),
        None if quality is None else _short("SIGNAL_QUALITY", as_text(quality)),
        None if direction is None else _short("DIRECTION", direction),
        *rest,
        None if raw is None else orjson.dumps(raw).decode(),
        None if ingested is None else as_timestamp("INGESTION_TIME", as_text(ingested)),
        *origin[1:],
    )


def _check_sizes(values: tuple[Any, ...], rest: list[Any]) -> None:
    badge, user, zone, reader, *_ = values
    if max(len(badge), len(user), len(zone), len(reader)) > NAME_LENGTH:
        raise _too_long(values)
    for number in _whole_of(rest):
        if number is not None and not -MAX_WHOLE <= number <= MAX_WHOLE:
            raise SkipError("Numeric value is out of range")


def record_of(line: bytes, rejects: Rejects | None) -> dict[str, Any]:
    """The JSON object of a line. Raises SkipError."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise SkipError("Error parsing JSON") from None
    if not isinstance(record, dict):
        raise SkipError("Error parsing JSON: a row must be an object")
    if rejects is not None and rejects(record):
        raise SkipError("Rejected by a fault rule of the emulator")
    return record


def _too_long(values: tuple[Any, ...]) -> SkipError:
    column = next(name for name, value in zip(_NAMES, values, strict=False) if len(value) > NAME_LENGTH)
    return SkipError(f"User character length limit ({NAME_LENGTH}) exceeded in {column.upper()}")


def _short(column: str, text: str) -> str:
    if len(text) > SHORT_LENGTH:
        raise SkipError(f"User character length limit ({SHORT_LENGTH}) exceeded in {column}")
    return text


def _direction(text: str) -> str:
    upper = text.upper()
    return upper if upper in {"ENTRY", "EXIT"} else _short("DIRECTION", text)


def as_text(value: object) -> str:
    """A value as ::STRING casts it."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _wanted(name: str) -> type:
    if name in _WHOLE:
        return int
    return bool if name == "replay" else str


# A row's JSON types are the same for millions of rows, so the result is cached. Bounded,
# because a hostile client could send every combination.
@lru_cache(maxsize=256)
def _plain(types: tuple[type, ...]) -> bool:
    """Whether values of these types can go to the table without a cast."""
    for name, found in zip(_FIELDS, types, strict=True):
        if name in _NAMES or name == "event_timestamp":
            if found is not str:
                return False
        elif name == "signal_strength":
            if found not in (int, float, type(None)):
                return False
        elif found is not type(None) and found is not _wanted(name):
            return False
    return True


def _cast(values: Row) -> tuple[Any, ...]:
    """The casts of the pipe's SELECT (::STRING, ::NUMBER, ::BOOLEAN) on values of any JSON type."""
    cast: list[object] = []
    for name, value in zip(_FIELDS, values, strict=True):
        if value is None:
            if name in _NAMES or name == "event_timestamp":
                raise SkipError(f"NULL result in a non-nullable column {name.upper()}")
            cast.append(None)
        elif name == "signal_strength":
            cast.append(_number(name, value))
        elif name in _WHOLE:
            cast.append(whole_number(name, value))
        elif name == "replay":
            cast.append(as_boolean(name, value))
        else:
            cast.append(as_text(value))
    return tuple(cast)


def whole_number(name: str, value: object) -> int:
    """A value as ::NUMBER(38,0) casts it. Raises SkipError."""
    return int(_number(name, value).to_integral_value(ROUND_HALF_UP))


def _number(name: str, value: object) -> Decimal:
    try:
        if isinstance(value, str | int | float) and not isinstance(value, bool):
            number = Decimal(str(value).strip())
            # The exponent alone could make an integer of a million digits.
            if number.is_finite() and number.adjusted() < 38:  # noqa: PLR2004 - NUMBER(38,0)
                return number
    except InvalidOperation:
        pass
    raise SkipError(f"Numeric value is not recognized in {name.upper()}")


def as_boolean(name: str, value: object) -> bool:
    """A value as ::BOOLEAN casts it. Raises SkipError."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise SkipError(f"Boolean value is not recognized in {name.upper()}")


def _signal(strength: float | Decimal | None) -> tuple[float, str]:
    """Strength and quality: NUMBER(5,2), the column's own two decimals, nothing coarser."""
    if strength is None:
        # The CASE tests the value before NVL, and NULL is not below any bound.
        return NO_SIGNAL, "STRONG"
    rounded = _strength(strength)
    if strength < WEAK_BELOW:
        return rounded, "WEAK"
    return rounded, "MEDIUM" if strength < MEDIUM_BELOW else "STRONG"


def _strength(strength: float | Decimal) -> float:
    rounded = Decimal(str(strength)).quantize(Decimal("0.01"), ROUND_HALF_UP)
    if not -MAX_SIGNAL < rounded < MAX_SIGNAL:
        raise SkipError("Numeric value is out of range in SIGNAL_STRENGTH")
    return float(rounded)


def as_timestamp(column: str, text: str) -> str:
    """TIMESTAMP_NTZ as `YYYY-MM-DD HH:MM:SS.ffffff`: an offset is dropped, not applied."""
    try:
        # fromisoformat also takes dates without dashes, week dates and a space for the T.
        if text[4] != "-" or text[7] != "-" or text[10] != "T" or text[13] != ":":
            raise ValueError
        moment = datetime.fromisoformat(text)
    except (ValueError, IndexError):
        raise SkipError(f"Timestamp is not recognized in {column}") from None
    if len(text) == _USUAL_LENGTH and text[26] == "Z" and text[19] == ".":
        return f"{text[:10]} {text[11:26]}"  # the same result as the line below, three times as fast
    return moment.replace(tzinfo=None).isoformat(" ", "microseconds")
