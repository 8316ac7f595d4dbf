"""badge-agent run: the agent itself, until SIGTERM or SIGINT."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from pathlib import Path

import click

from agent.cli import config_option, describe_error
from agent.cli.state_access import give_up_root
from agent.config.loader import load
from agent.errors import AgentError, ConfigError
from agent.log import journal
from agent.log.message_ids import MessageId, fields
from agent.service import supervisor, systemctl

_log = logging.getLogger(__name__)


@click.command()
@config_option
@click.pass_context
def command(context: click.Context, config: Path) -> None:
    """Read the readers, store every swipe, deliver it.

    Stop it with Ctrl-C or SIGTERM: no swipe is lost, and the next start continues delivery.
    """
    journal.set_up("info")
    try:
        settings = load(config)
        journal.set_level(settings.agent.log_level)
        give_up_root(settings, with_key=True)
        supervisor.run(settings)
    except AgentError as error:
        if not journal.is_stderr():
            journal.flush()  # the error is the last line
            raise
        _log.critical("%s", describe_error(error), extra=fields(MessageId.GAVE_UP, error=error))
        if error.exit_code != ConfigError.exit_code:  # after which systemd does not restart it
            _wait_for_restart()
        context.exit(error.exit_code)


def _wait_for_restart() -> None:
    """The systemd of Debian 12 restarts after 1 s each time, which repeats the error 40,000 times a day."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # a stop ends the wait
    with contextlib.suppress(AgentError):
        time.sleep(systemctl.missing_restart_delay_s())
