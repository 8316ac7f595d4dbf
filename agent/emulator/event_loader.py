"""The rows of door events: what their pipe's SELECT makes of the lines of a body."""

from __future__ import annotations

from typing import Any

import orjson

from agent.emulator import row_loader
from agent.emulator.row_loader import Loaded, Rejects, Row, SkipError
from agent.sql.door_events import EVENT_PIPED

TABLE = "RAW_DOOR_EVENTS"
_ORIGIN = ("ingestion_time", "pipe_name", "channel_name", "offset_token")
COLUMNS = (*(column.name for column in EVENT_PIPED), *_ORIGIN)
_NOT_NULL = frozenset(column.name for column in EVENT_PIPED if column.type.endswith("NOT NULL"))


def load(body: bytes, origin: Row, rejects: Rejects | None = None) -> Loaded:
    """As row_loader.load(), for the pipe of door events."""
    return row_loader.load(body, origin, rejects, to_row=_row)


def _row(line: bytes, origin: Row, rejects: Rejects | None) -> Row:
    record = row_loader.record_of(line, rejects)
    return (*(_value(column.name, record, line) for column in EVENT_PIPED), *origin)


def _value(name: str, record: dict[str, Any], line: bytes) -> object:
    if name == "raw_json":
        return line.decode()
    value = record.get("at" if name == "event_timestamp" else name)
    if value is None:
        if name in _NOT_NULL:
            raise SkipError(f"NULL result in a non-nullable column {name.upper()}")
        return None
    if name == "event_timestamp":
        return row_loader.as_timestamp(name.upper(), row_loader.as_text(value))
    if name == "seq":
        return row_loader.whole_number(name, value)
    if name == "replay":
        return row_loader.as_boolean(name, value)
    return orjson.dumps(value).decode() if name == "details" else row_loader.as_text(value)
