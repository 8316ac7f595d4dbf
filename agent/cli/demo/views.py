"""Prints the monitoring views at the end of `badge-agent demo`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import click

from agent.cli.console import table
from agent.emulator.views import Result, read_views

_MAX_ROWS = 10
# Columns that fit on a screen; a single wider row is shown with one column per line.
_MAX_COLUMNS = 6

# A selection: the view has every column of the table.
_COLUMNS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "V_BADGE_EVENTS": ("seq", "event_timestamp", "badge_id", "user_id", "zone_id", "direction"),
        "V_ANCHORS": ("outbox_id", "seq", "chain", "pending"),
        "V_FLEET": ("agent_id", "status", "clock", "readers_open", "readers_lost", "pending"),
        "V_OPERATOR_ACTIONS": ("agent_id", "happened_at", "actor", "kind"),
    }
)

_NOTHING: Mapping[str, str] = MappingProxyType(
    {
        "V_DOOR_GAPS": "(no rows: no sequence number is missing)",
        "V_DOOR_CHAIN": "(no rows: every hash chain is intact)",
        "V_ANCHORS": "(no rows: no heartbeat arrived)",
        "V_OPERATOR_ACTIONS": "(no rows: no command was run at the door)",
    }
)

_FRACTION = re.compile(r"(\d\d:\d\d:\d\d)\.\d+")


def show_views(database: Path) -> None:
    """Print each view over the rows of an emulator's database. Raises AgentError."""
    for result in read_views(database):
        click.echo(f"\n{result.view.name}" + _remainder(result))
        _show(result)


def _remainder(result: Result) -> str:
    more = len(result.rows) - _MAX_ROWS
    return f", {_MAX_ROWS} of {len(result.rows)} rows" if more > 0 else ""


def _show(result: Result) -> None:
    name = result.view.name
    if not result.rows:
        click.echo(_NOTHING.get(name, "(no rows)"))
        return
    columns = _COLUMNS.get(name, result.columns)
    places = [result.columns.index(column) for column in columns]
    cells = [[_cell(row[place]) for place in places] for row in result.rows[:_MAX_ROWS]]
    if len(cells) == 1 and len(columns) > _MAX_COLUMNS:
        table(("column", "value"), list(zip(columns, cells[0], strict=True)))
    else:
        table(columns, cells)


def _cell(value: object) -> str:
    """The value as text, timestamps without fractions so that a row fits the screen."""
    return "" if value is None else _FRACTION.sub(r"\1", str(value))
