"""The account's views as tables: how `badge-agent demo` ends."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import click

from agent.cli.console import table
from agent.emulator.views import Result, read_views

_MOST_ROWS = 10
# What fits on a screen side by side; a single wider row is shown with one column to a line.
_MOST_COLUMNS = 6

# Of the events, what a person looks for; the view has every column of the table.
_COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"V_BADGE_EVENTS": ("seq", "event_timestamp", "badge_id", "user_id", "zone_id", "direction")}
)

_NOTHING: Mapping[str, str] = MappingProxyType(
    {
        "V_DOOR_GAPS": "(no rows: every number that a door gave out is there)",
        "V_DOOR_CHAIN": "(no rows: each row follows from the one before)",
    }
)

_FRACTION = re.compile(r"(\d\d:\d\d:\d\d)\.\d+")


def show_views(database: Path) -> None:
    """Print what each view shows of the rows in an emulator's file. Raises AgentError."""
    for result in read_views(database):
        click.echo(f"\n{result.view.name}" + _remainder(result))
        _show(result)


def _remainder(result: Result) -> str:
    more = len(result.rows) - _MOST_ROWS
    return f", {_MOST_ROWS} of {len(result.rows)} rows" if more > 0 else ""


def _show(result: Result) -> None:
    name = result.view.name
    if not result.rows:
        click.echo(_NOTHING.get(name, "(no rows)"))
        return
    columns = _COLUMNS.get(name, result.columns)
    places = [result.columns.index(column) for column in columns]
    cells = [[_cell(row[place]) for place in places] for row in result.rows[:_MOST_ROWS]]
    if len(cells) == 1 and len(columns) > _MOST_COLUMNS:
        table(("column", "value"), list(zip(columns, cells[0], strict=True)))
    else:
        table(columns, cells)


def _cell(value: object) -> str:
    """As text; of a time the whole seconds, so that a row fits the screen."""
    return "" if value is None else _FRACTION.sub(r"\1", str(value))
