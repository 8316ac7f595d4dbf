"""Reads exported rows, CSV or NDJSON: columns of the tables, or rows as they were sent."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from agent.errors import AgentError

Members = Mapping[str, Any]

# Columns that hold JSON; their text in CSV.
_JSON = ("details", "raw_json")
_EVENT_COLUMN, _EVENT_MEMBER = "event_timestamp", "at"
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z?")
_DIGITS = 6  # of the fraction of a second, in a row
_HINT = "export it again, in UTF-8: CSV with a header line, or NDJSON"


def read_export(files: Iterable[Path]) -> Iterator[Members]:
    """The rows of the files, each as the members of a row that was sent. Raises AgentError."""
    csv.field_size_limit(sys.maxsize)
    for path in files:
        number = 0
        try:
            with path.open(encoding="utf-8-sig", newline="") as file:
                for number, record in enumerate(_records(file), start=1):  # noqa: B007 - for the error
                    yield _members(record)
        except (OSError, ValueError, csv.Error) as error:
            raise AgentError(f"{path}: row {number + 1} cannot be read: {error}", hint=_HINT) from error


def _records(file: TextIO) -> Iterator[Mapping[str, Any]]:
    """Raises ValueError for a line that is no object."""
    is_json = file.read(1) in {"{", ""}
    file.seek(0)
    if not is_json:
        yield from csv.DictReader(file)
        return
    for line in filter(str.strip, file):
        record = json.loads(line)
        if not isinstance(record, dict):
            raise ValueError("it is no object")  # noqa: TRY004 - as for text that is no JSON
        yield record


def _members(record: Mapping[str, Any]) -> Members:
    """Columns count; what no column holds is taken from raw_json, the row as it was sent."""
    columns = {
        str(name).lower(): value
        for name, value in record.items()
        if name is not None and value is not None and value != ""
    }
    for name in _JSON:
        if isinstance(columns.get(name), str):
            columns[name] = json.loads(columns[name])
    if "seq" in columns:
        columns["seq"] = int(columns["seq"])
    sent = columns.pop("raw_json", None)
    sent = sent if isinstance(sent, dict) else {}
    if _EVENT_COLUMN in columns:
        member = _EVENT_MEMBER if "kind" in columns else _EVENT_COLUMN
        columns[member] = _timestamp(str(columns.pop(_EVENT_COLUMN)), str(sent.get(member, "")))
    return {**sent, **columns}


def _timestamp(text: str, sent: str) -> str:
    """The value of a TIMESTAMP_NTZ column as a row has it; unchanged if it is no time.

    `sent`: the member of the row as sent, which counts where the export has fewer digits of the same time.
    """
    found = _TIME.fullmatch(text.strip())
    if found is None:
        return text
    day, time, fraction = found.groups(default="")
    short = f"{day}T{time}{f'.{fraction}' if fraction else ''}"
    if len(fraction) < _DIGITS and sent.startswith(short):
        return sent
    return f"{day}T{time}.{fraction[:_DIGITS]:0<{_DIGITS}}Z"
