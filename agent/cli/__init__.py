"""The command `badge-agent`: one module per subcommand, imported when it is invoked."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from agent import __version__
from agent.errors import AgentError, ConfigError, OutputFullError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

# The summaries of `badge-agent --help`, here so that help imports no command.
COMMANDS: Mapping[str, str] = MappingProxyType(
    {
        "setup": "Set up a door: key, configuration, service. Run it first after the installation.",
        "run": "Read the readers and deliver every swipe; the service runs this.",
        "check": "Check every prerequisite; each failure comes with the next step.",
        "status": "Show pending and delivered swipes and the state of the readers.",
        "watch": "Show the door on one screen as it changes, or print one JSON line per change.",
        "page": "Show the same as a web page on 127.0.0.1 while the command runs.",
        "outbox": "List, export or release rows that Snowflake could not load or refused.",
        "replay": "Send rows again that are kept on this machine.",
        "report": "Write an archive for support, without card numbers, keys and tokens.",
        "verify": "Check exported rows: is one of them missing or altered?",
        "demo": "Show swipes becoming rows, without configuration or account.",
        "emulator": "Run a local emulator of Snowflake's pipe.",
        "protocols": "List the reader protocols and card formats.",
        "decode": "Decode a reader's bytes or bits to card numbers.",
        "identify": "Detect the reader on a serial port: protocol, baud rate, card format, wiring faults.",
        "pseudonym": "Compute the pseudonyms of badge ids, for the cardholders file.",
        "key": "Make or change the private key, and show the public key for Snowflake.",
        "sql": "Print the SQL that creates the objects in a Snowflake account.",
        "send-sample": "Send three sample events, to test a new account.",
    }
)

_CONFIG_HELP = "Configuration file (default: $BADGE_AGENT_CONFIG, else /etc/badge-agent/config.toml)."
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_OUTPUT_FULL = OutputFullError(
    "no space left on the device that this command writes to; the output is incomplete",
    hint="free some space or write the output to another device, then run it again",
)
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it

Function = TypeVar("Function", bound=Callable[..., Any])


def config_option(function: Function) -> Function:
    """Add `--config FILE` to a command, which receives the path as `config`.

    Precedence: the option after the command, the option before it, the environment, the default.
    """
    return click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        callback=_config_path,
        help=_CONFIG_HELP,
    )(function)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's arguments) and return its exit code."""
    try:
        code = _invoke(arguments)
        # Not left to the interpreter's exit, where a closed pipe cannot be handled.
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
    """Discard buffered standard output, also at the interpreter's exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def describe_error(error: AgentError) -> str:
    """An error for the terminal: message, every problem, the next step."""
    problems = [f"  - {problem}" for problem in error.problems] if isinstance(error, ConfigError) else []
    return "\n".join([str(error), *problems, *([f"  next: {error.hint}"] if error.hint else [])])


def _invoke(arguments: Sequence[str] | None) -> int:
    try:
        # A command returns its exit code, or None for 0.
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
    except Exception as error:  # noqa: BLE001 - last resort: an installer gets a message, not a traceback
        return _report_bug(error)


def _report(error: AgentError) -> int:
    click.echo(f"error: {describe_error(error)}", err=True)
    return error.exit_code


def _report_bug(error: Exception) -> int:
    if os.environ.get("BADGE_AGENT_TRACEBACK"):
        traceback.print_exception(error)
        return 1
    # Without its message, which may quote data such as a card number.
    click.echo(
        f"error: badge-agent {__version__} stopped with an unexpected {type(error).__name__}", err=True
    )
    click.echo("  next: run it again with BADGE_AGENT_TRACEBACK=1 set, and report the traceback", err=True)
    return 1


def _config_path(context: click.Context, _parameter: click.Parameter, after: Path | None) -> Path:
    # Imported late: the settings import every reader protocol, which `--help` does not need.
    from agent.config.loader import find_config  # noqa: PLC0415 - see above

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

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As click's, without importing each command for its summary."""
        from click.shell_completion import CompletionItem  # noqa: PLC0415 - for the shell only

        commands = [
            CompletionItem(name, help=text) for name, text in COMMANDS.items() if name.startswith(incomplete)
        ]
        return commands + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


_EPILOG = """
\b
Try it without a reader or an account:
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
    """Deliver badge swipes from serial readers to a Snowflake pipe, each exactly once."""
