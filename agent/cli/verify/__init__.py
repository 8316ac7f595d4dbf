"""badge-agent verify: check exported rows against the chain of a door and its signed heartbeats."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from agent.cli.verify.exported import read_export
from agent.cli.verify.proof import Verdict, verdicts
from agent.keys.keypair import load_public_key

_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command(
    "verify",
    epilog="""
\b
In Snowflake, for example in Snowsight, which downloads a result as CSV:
  SELECT * FROM RAW_BADGE_EVENTS WHERE agent_id = 'hq-lobby-1';
  SELECT * FROM RAW_DOOR_EVENTS WHERE agent_id = 'hq-lobby-1';
Then, on any machine:
  badge-agent verify swipes.csv events.csv --public-key hq-lobby-1.pub
""",
)
@click.argument("files", metavar="FILE...", type=_FILE, nargs=-1, required=True)
@click.option(
    "--public-key",
    "key_files",
    type=_FILE,
    multiple=True,
    help="A public key of the door (badge-agent key public); again for each earlier one.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(files: tuple[Path, ...], key_files: tuple[Path, ...], *, as_json: bool) -> int:
    """Check that no exported row is missing, altered or reordered.

    FILE is CSV or NDJSON, with rows of RAW_BADGE_EVENTS or V_BADGE_EVENTS, of RAW_DOOR_EVENTS, or of `outbox
    export`. Names the first row that does not fit. Needs no account and no network. A chain alone has no
    secret. To change rows that a signed heartbeat confirms, one needs the private key of the door.

    \b
    Exit code:
      0   every row fits
      1   a row is missing or does not fit, or a signature is not valid
    """  # noqa: D301 - click's escape for unwrapped lines
    keys = [load_public_key(file) for file in key_files]
    found = verdicts(read_export(files), keys)
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(one) for one in found]))
    else:
        for one in found:
            _show(one)
        if not found:
            click.echo("no row with an outbox_id is in these files")
    return 0 if found and all(one.problem is None for one in found) else 1


def _show(one: Verdict) -> None:
    state = "ok" if one.problem is None else "failed"
    span = f"seq {one.first_seq} to {one.last_seq}" if one.rows else "no rows"
    click.echo(f"{state:<7} {one.agent_id} {one.outbox_id}, {one.kind}: {one.rows:,} rows, {span}")
    for note in one.notes:
        click.echo(f"        {note}")
    if one.problem is not None:
        click.echo(f"        {one.problem}")
