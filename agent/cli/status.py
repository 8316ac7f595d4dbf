"""badge-agent status: pending and delivered swipes, uploader, key, clock and readers."""

from __future__ import annotations

import json
from pathlib import Path

import click

from agent.cli import config_option
from agent.cli.console import show, table
from agent.cli.findings import READER_HEADERS, findings, is_reporting, reader_rows
from agent.cli.state_access import load_as_owner
from agent.service.status_file import door_status, is_healthy


@click.command("status", epilog="Example: badge-agent status --json")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@config_option
@click.pass_context
def command(context: click.Context, config: Path, *, as_json: bool) -> None:
    """Show pending and delivered swipes and the state of the readers.

    Reads the outbox and the running agent's status file, without affecting the agent.

    \b
    Exit code:
      0   the agent works; swipes may wait while the network is down
      1   the agent is not running, a reader is missing, silent, offline or tampered with, the
          outbox cannot be used, a power cut would lose swipes, Snowflake refuses the key or the
          role, or rows are held for an operator
      77  no permission: run it with sudo, or as the agent's user
      78  the configuration cannot be used
    """  # noqa: D301 - click's escape for unwrapped lines
    settings = load_as_owner(config)
    status = door_status(settings)
    if as_json:
        click.echo(json.dumps(status))
    else:
        for finding in findings(status, settings.agent):
            show(finding)
        if is_reporting(status):
            click.echo()
            table(READER_HEADERS, reader_rows(status["readers"]))
    context.exit(0 if is_healthy(status) else 1)
