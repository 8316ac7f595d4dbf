"""Prints badge-agent(1), generated from the help texts.

click-man truncates summaries, help2man treats a wrapped usage line as text, and neither preserves the format
of examples.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click

from agent import __version__
from agent.cli import COMMANDS, _group

_EXIT_CODES = {
    0: "success",
    1: "failure or negative result",
    2: "usage",
    69: "Snowflake unreachable",
    74: "outbox or disk",
    77: "permission denied",
    78: "configuration",
}
_FILES = {
    "/etc/badge-agent/config.toml": "the configuration",
    "/etc/credstore*/badge-agent.private_key*": "the private key, as a systemd credential",
    "/var/lib/badge-agent/outbox.db": "pending swipes, and those kept for replay",
    "/run/badge-agent/status.json": "the state shown by badge-agent status",
    "/run/badge-agent/metrics.prom": "the same as metrics, for node_exporter",
}


def page() -> Iterator[str]:
    """The lines of the page, in man(7) markup."""
    # Left-aligned: justification leaves gaps around file names and lists of choices.
    yield f'.TH BADGE-AGENT 1 "" "badge-agent {__version__}" "User Commands"'
    yield ".ad l"
    yield from (".SH NAME", r"badge-agent \- badge swipes from serial readers into a Snowflake pipe")
    yield from (".SH SYNOPSIS", r".B badge-agent", r"[\-\-config FILE] COMMAND [ARGUMENTS]")
    yield ".SH DESCRIPTION"
    yield from text(_group.help or "")
    yield from text(_group.epilog or "")
    yield ".SH COMMANDS"
    context = click.Context(_group, info_name="badge-agent")
    for name in COMMANDS:
        command = _group.get_command(context, name)
        if command is not None:
            yield from described(click.Context(command, parent=context, info_name=name))
    yield ".SH FILES"
    yield from entries(_FILES)
    yield ".SH EXIT STATUS"
    yield from entries({str(code): meaning for code, meaning in _EXIT_CODES.items()})


def described(context: click.Context) -> Iterator[str]:
    """A command with its options; a group with its commands."""
    command = context.command
    yield f".SS {escaped(context.command_path)} {escaped(usage(command))}"
    yield from text(command.help or "")
    records = (parameter.get_help_record(context) for parameter in command.params)
    yield from entries(dict(record for record in records if record and record[1]))
    yield from text(command.epilog or "")
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from described(click.Context(inner, parent=context, info_name=name))


def usage(command: click.Command) -> str:
    """A short usage after the command's name; choices are listed in the help text."""
    arguments = [parameter for parameter in command.params if isinstance(parameter, click.Argument)]
    names = (f"[{(argument.name or '').upper()}]" for argument in arguments)
    return " ".join(["COMMAND" if isinstance(command, click.Group) else "[OPTIONS]", *names])


def text(help_text: str) -> Iterator[str]:
    """Paragraphs; one that begins with a backspace keeps its lines, as in click."""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(help_text).strip()):
        lines = [escaped(line) for line in paragraph.splitlines()]
        if lines and lines[0].strip() == "\b":
            yield from (".PP", ".nf", *lines[1:], ".fi")
        elif lines:
            yield from (".PP", *lines)


def entries(meanings: dict[str, str]) -> Iterator[str]:
    """A list of names and what they mean."""
    for name, meaning in meanings.items():
        yield from (".TP", f".B {escaped(name)}", escaped(meaning))


def escaped(line: str) -> str:
    """A line escaped for man(7)."""
    line = line.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{line}" if line.startswith((".", "'")) else line


if __name__ == "__main__":
    print("\n".join(page()))
