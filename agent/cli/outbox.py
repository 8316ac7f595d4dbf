"""badge-agent outbox: list, show, export and release rows that need an operator."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.console import table
from agent.config.loader import load
from agent.errors import AgentError
from agent.outbox.external import holds

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
    waiting = holds.holds(load(config).agent.state_dir)
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
    click.echo("next: badge-agent outbox show ID; after correcting the cause: badge-agent replay --rejected")


@command.command()
@config_option
@_id_argument
def show(config: Path, hold_id: int) -> None:
    """Show the rows of one entry, one JSON object per line, including card numbers."""
    _write_rows(config, hold_id)


@command.command()
@config_option
@click.argument("hold_id", metavar="[ID]", type=int, required=False)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE", help="Write to a new file, mode 0600."
)
def export(config: Path, hold_id: int | None, out: Path | None) -> None:
    """Write the rows of one entry, or of all, as NDJSON, as they are sent to the pipe."""
    if out is None:
        _write_rows(config, hold_id)
        return
    rows = list(holds.held_rows(load(config).agent.state_dir, hold_id))
    try:
        with out.open("xb") as file:
            out.chmod(0o600)
            file.writelines(row + b"\n" for row in rows)
    except OSError as error:
        raise AgentError(
            f"{out}: {error.strerror}", hint="name a new file in a directory that this user may write"
        ) from error
    click.echo(f"{len(rows)} rows written to {out}")


@command.command()
@config_option
@click.argument("hold_ids", metavar="ID...", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Release every entry.")
def release(config: Path, hold_ids: tuple[int, ...], *, everything: bool) -> int:
    """Mark entries as resolved: their rows are not sent again, and are purged after the retention time."""
    if bool(hold_ids) == everything:
        raise click.UsageError("name the entries to release, or --all")
    released = holds.release(load(config).agent.state_dir, None if everything else list(hold_ids))
    click.echo(f"{released} released")
    return 0 if everything or released == len(set(hold_ids)) else 1


def _write_rows(config: Path, hold_id: int | None) -> None:
    found = False
    for row in holds.held_rows(load(config).agent.state_dir, hold_id):
        found = True
        sys.stdout.write(row.decode() + "\n")
    if not found and hold_id is not None:
        raise AgentError(f"there is no entry {hold_id}", hint="badge-agent outbox list")
