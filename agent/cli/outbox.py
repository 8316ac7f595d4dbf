"""badge-agent outbox: list, show, export and release rows that need an operator."""

from __future__ import annotations

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path
from typing import BinaryIO

import click

from agent.cli import config_option
from agent.cli.console import progress, table
from agent.cli.new_file import incomplete, new_file
from agent.cli.operator_action import action, record
from agent.cli.recovery_note import note_recovery
from agent.cli.state_access import load_as_owner
from agent.config.loader import load
from agent.errors import AgentError
from agent.outbox.external import holds
from agent.owner import call_as_owner
from agent.settings import Settings

_NOT_THERE = ("lost", "damaged")  # how the reason of a hold begins whose rows cannot be sent
_ROWS_PER_STEP = 1000  # of the progress bar
_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_id_argument = click.argument("hold_id", metavar="ID", type=int)


@click.group(
    epilog="""
\b
After correcting the cause:
  badge-agent outbox list
  badge-agent replay --rejected --dry-run
  badge-agent replay --rejected
  badge-agent outbox release ID   (if nothing is to be sent again)
"""
)
def command() -> None:
    """List, export or release rows that Snowflake could not load or refused.

    REJECTED: Snowflake counted errors in a range of rows without naming the rows; the valid rows of
    the range were loaded. SET ASIDE: Snowflake refused this row; it was not loaded.
    These rows stay on this machine until they are replayed or released.
    """


@command.command("list")
@config_option
@_json_option
def list_(config: Path, *, as_json: bool) -> None:
    """List the entries that need an operator, with the reason."""
    waiting = holds.holds(_settings(config).agent.state_dir)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(hold) for hold in waiting]))
        return
    if not waiting:
        click.echo("no entry needs an operator")
        return
    table(
        ("id", "kind", "rows", "seq", "reason"),
        [
            (
                str(hold.id),
                hold.kind.replace("_", " "),
                str(hold.rows),
                f"{hold.first_seq}-{hold.last_seq}" if hold.rows > 1 else str(hold.first_seq),
                hold.reason,
            )
            for hold in waiting
        ],
    )
    click.echo(_next_step(waiting))


def _next_step(waiting: list[holds.Hold]) -> str:
    """The commands that find something among these entries."""
    gone = [hold for hold in waiting if hold.reason.startswith(_NOT_THERE)]
    kinds = {hold.kind for hold in waiting if hold not in gone}
    steps = [f"badge-agent replay --{kind.replace('_', '-')}" for kind in sorted(kinds)]
    step = f"badge-agent outbox show ID; after correcting the cause: {'; '.join(steps)}" if steps else ""
    release = f"badge-agent outbox release {gone[0].id} (no whole row is left)" if gone else ""
    return f"next: {'; '.join(filter(None, (step, release)))}"


@command.command()
@config_option
@_id_argument
def show(config: Path, hold_id: int) -> None:
    """Show the rows of one entry, one JSON object per line, including card numbers."""
    _write_rows(config, hold_id, "outbox_show")


@command.command()
@config_option
@click.argument("hold_id", metavar="[ID]", type=int, required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write to a new file, mode 0600."
)
def export(config: Path, hold_id: int | None, out: Path | None) -> None:
    """Write the rows of one entry, or of all, as NDJSON, as they are sent to the pipe."""
    if out is None:
        _write_rows(config, hold_id, "outbox_export")
        return
    # The file is made, and removed after a failure, by the caller; the outbox is read as its owner.
    settings = load(config)
    state_dir = settings.agent.state_dir
    total = call_as_owner(partial(_count, state_dir, hold_id), state_dir)
    if total:
        record(settings, "outbox_export", _read_message(hold_id, total), rows=total)
    with new_file(out) as file:
        call_as_owner(partial(_write_to, file, out, state_dir, hold_id, total), state_dir)
    click.echo(f"written to {out}")


def _count(state_dir: Path, hold_id: int | None) -> int:
    note_recovery(state_dir)
    total = holds.count_held_rows(state_dir, hold_id)
    if not total and hold_id is not None:
        raise _no_entry(hold_id)
    return total


def _write_to(file: BinaryIO, path: Path, state_dir: Path, hold_id: int | None, total: int) -> None:
    try:
        with progress(total, "rows exported") as advance:
            written = 0
            for row in holds.held_rows(state_dir, hold_id):
                file.write(row + b"\n")
                written += 1
                if written % _ROWS_PER_STEP == 0:
                    advance(_ROWS_PER_STEP)
            advance(written % _ROWS_PER_STEP)
        file.flush()
    except OSError as error:
        raise incomplete(path, error) from error


@command.command()
@config_option
@click.argument("hold_ids", metavar="ID...", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Release every entry.")
def release(config: Path, hold_ids: tuple[int, ...], *, everything: bool) -> int:
    """Mark entries as resolved: their rows are not sent again, and are purged after the retention time."""
    if bool(hold_ids) == everything:
        raise click.UsageError("name the entries to release, or --all")
    settings = _settings(config)
    done = action(settings, "outbox_release", f"released {_entries(None if everything else hold_ids)}")
    released = holds.release(settings.agent.state_dir, None if everything else list(hold_ids), done)
    click.echo(f"{released} released")
    return 0 if everything or released == len(set(hold_ids)) else 1


def _settings(config: Path) -> Settings:
    settings = load_as_owner(config)
    note_recovery(settings.agent.state_dir)
    return settings


def _write_rows(config: Path, hold_id: int | None, kind: str) -> None:
    settings = _settings(config)
    state_dir = settings.agent.state_dir
    total = holds.count_held_rows(state_dir, hold_id)
    if not total and hold_id is not None:
        raise _no_entry(hold_id)
    if total:
        record(settings, kind, _read_message(hold_id, total), rows=total)
    for row in holds.held_rows(state_dir, hold_id):
        sys.stdout.write(row.decode() + "\n")


def _read_message(hold_id: int | None, total: int) -> str:
    return f"read {total} rows of {_entries(None if hold_id is None else (hold_id,))}"


def _entries(hold_ids: tuple[int, ...] | None) -> str:
    """Entries of `outbox list` in a message; None for all."""
    if hold_ids is None:
        return "every entry"
    return f"{'entry' if len(hold_ids) == 1 else 'entries'} {', '.join(map(str, hold_ids))}"


def _no_entry(hold_id: int) -> AgentError:
    return AgentError(f"there is no entry {hold_id}", hint="badge-agent outbox list")
