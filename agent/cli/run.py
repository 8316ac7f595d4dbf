"""badge-agent run: the agent itself, until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from agent.cli import config_option
from agent.config import load
from agent.service import logs, supervisor


@click.command()
@config_option
def command(config: Path) -> None:
    """Read the readers, keep every swipe, deliver it.

    Stop it with Ctrl-C or SIGTERM: nothing is lost, the next start goes on where this one ended.
    """
    settings = load(config)
    logs.set_up(settings.agent.log_level)
    supervisor.run(settings)
