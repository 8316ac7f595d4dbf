"""The command `badge-agent`: one module per subcommand, imported only when it is asked for."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import click

from agent import __version__
from agent.errors import AgentError, ConfigError, OutputFullError

# The lines of `badge-agent --help`, kept here so that it need not import every command.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "setup": "Set a door up: key, configuration, service. The first thing after the installation.",
        "run": "Read the readers and deliver every swipe; this is what the service runs.",
        "check": "Walk through everything that must be right, and say how to put right what is not.",
        "status": "Show what waits, what was delivered, and how the readers are.",
        "outbox": "Deal with rows that Snowflake could not load or refuses.",
        "replay": "Send rows again that are still on this machine.",
        "demo": "Watch a swipe become a row, with nothing to configure.",
        "emulator": "Serve a local stand-in for Snowflake's pipe.",
        "protocols": "List the reader protocols and card formats.",
        "decode": "Tell what card a reader's bytes or bits are.",
        "identify": "Find out what is on a serial port: protocol, speed, card format, wiring faults.",
        "key": "Make the private key, change it, and show what Snowflake needs of it.",
        "sql": "Print the SQL that makes a Snowflake account ready.",
        "send-sample": "Send three sample events: the first thing to try with a new account.",
    }
)

_CONFIG_HELP = "Configuration file (else $BADGE_AGENT_CONFIG, else /etc/badge-agent/config.toml)."
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OUTPUT_FULL = OutputFullError(
    "no space is left where the output of this command goes, and it is not complete",
    hint="free some space there, or send the output somewhere else, and run it again",
)
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

Function = TypeVar("Function", bound=Callable[..., Any])


def config_option(function: Function) -> Function:
    """Give a command `--config FILE`; it is called with `config`, the path of the file to read.

    The option after the command wins over the one before it, that over the environment.
    """
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=_config_path,
        help=_CONFIG_HELP,
    )(function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's own) and give its exit code."""
    try:
        code = _invoke(arguments)
        # Here and not at the interpreter's exit, where a closed pipe could not be silenced.
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_output()
        return 1
    except OSError as error:
        if error.errno not in _NO_SPACE:
            raise
        _silence_output()
        return _report(_OUTPUT_FULL)
    return code


def _silence_output() -> None:
    """What is still buffered for standard output goes nowhere, at the interpreter's exit too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def words_of(error: AgentError) -> str:
    """What a person is told of an error: what happened, every problem, what to do next."""
    problems = [f"  - {problem}" for problem in error.problems] if isinstance(error, ConfigError) else []
    return "\n".join([str(error), *problems, *([f"  next: {error.hint}"] if error.hint else [])])


def _invoke(arguments: Sequence[str] | None) -> int:
    try:
        # A command ends with what it returns: its exit code, or None for 0.
        return _group.main(arguments, prog_name="badge-agent", standalone_mode=False) or 0
    except AgentError as error:
        return _report(error)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("interrupted", err=True)
        return _INTERRUPTED
    except OSError as error:
        if error.errno in _NO_SPACE or isinstance(error, BrokenPipeError):
            raise
        return _report_bug(error)
    except Exception as error:  # noqa: BLE001 - the last door: an installer gets a line, not a traceback
        return _report_bug(error)


def _report(error: AgentError) -> int:
    click.echo(f"error: {words_of(error)}", err=True)
    return error.exit_code


def _report_bug(error: Exception) -> int:
    if os.environ.get("BADGE_AGENT_TRACEBACK"):
        traceback.print_exception(error)
        return 1
    # Without its message: that may quote what was being worked on, a card number for one.
    click.echo(f"error: badge-agent {__version__} stopped on an unexpected {type(error).__name__}", err=True)
    click.echo(
        "  next: run it again with BADGE_AGENT_TRACEBACK=1 in front, and report what it prints", err=True
    )
    return 1


def _config_path(context: click.Context, _parameter: click.Parameter, after: Path | None) -> Path:
    # Imported late: the settings bring in every reader protocol, which most of `--help` can do without.
    from agent.config.loader import find_config  # noqa: PLC0415 - as said above

    before: Path | None = context.find_root().params.get("config")
    return find_config(after or before, os.environ)


class _LazyGroup(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, _ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"agent.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


_EPILOG = """
\b
To see it all work, without a reader or an account:
  badge-agent demo
On a new door:
  badge-agent identify --port /dev/ttyUSB0
  sudo badge-agent setup
Each command has its own --help.
"""


@click.group(cls=_LazyGroup, epilog=_EPILOG)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help=_CONFIG_HELP)
@click.version_option(__version__, message="badge-agent %(version)s")
def _group(config: Path | None) -> None:
    """Badge swipes from serial readers into a Snowflake pipe, each exactly once."""
