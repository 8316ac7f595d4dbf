"""badge-agent check: every prerequisite in order, and for what is not right the next thing to do."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import click

from agent import __version__
from agent.cli import config_option
from agent.cli.check.runner import Found, Step, in_order, within
from agent.cli.console import Finding, show
from agent.errors import AgentError
from agent.settings import Settings

if TYPE_CHECKING:
    pass

_LONGEST_S = 60.0
_NEXT_INDENT = " " * len("warning  next: ")

# Distribution -> its package in Debian.
LIBRARIES: Mapping[str, str] = MappingProxyType(
    {
        "click": "python3-click",
        "cryptography": "python3-cryptography",
        "PyJWT": "python3-jwt",
        "pyserial": "python3-serial",
        "requests": "python3-requests",
        "rich": "python3-rich",
        "sqlite-utils": "sqlite-utils",
        "zstandard": "python3-zstandard",
    }
)


@click.command("check", epilog="Example: badge-agent check --config config.toml")
@click.option("--offline", is_flag=True, help="Look at this machine only, not at Snowflake.")
@click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object, for a program.")
@config_option
@click.pass_context
def command(context: click.Context, config: Path, *, offline: bool, as_json: bool) -> None:
    """Walk through everything that must be right before swipes can become rows.

    Each failure comes with its cause and the next command or SQL to run. The agent may run
    meanwhile: its ports, its outbox and its channel are left alone. It takes a minute at most.

    \b
    Exit code, that of the first failure:
      0   nothing failed (there may be warnings)
      69  Snowflake cannot be reached, or does not answer as it should
      74  outbox or disk
      77  not permitted, by this machine or by Snowflake
      78  configuration, key or cardholders file
      1   anything else, a reader's port for one
    """  # noqa: D301 - click's mark for lines that are not to be wrapped
    found_now = look(config, offline=offline)
    founds = list(found_now if as_json else shown(found_now))
    exit_code = next((found.exit_code for found in founds if found.exit_code), 0)
    if as_json:
        findings = [dataclasses.asdict(found.finding) for found in founds]
        click.echo(json.dumps({"ok": exit_code == 0, "findings": findings}))
    context.exit(exit_code)


def look(config: Path, *, offline: bool = False) -> Iterator[Found]:
    """Everything that must be right, found as it is looked at; a minute at most."""
    return within(partial(_walk, config, offline=offline), _LONGEST_S)


def shown(founds: Iterable[Found]) -> Iterator[Found]:
    """The same, each printed as it comes; what several in a row say to do next is said with the first."""
    next_before = ""
    for found in founds:
        finding = found.finding
        following = "" if finding.next == next_before else finding.next.replace("\n", "\n" + _NEXT_INDENT)
        show(dataclasses.replace(finding, next=following))
        next_before = finding.next
        yield found


def _walk(config: Path, *, offline: bool) -> Iterator[Found]:
    loaded: list[Settings] = []

    def load() -> Iterator[Finding]:
        # Imported after the libraries were looked at: without one of them this would not import.
        from agent.config.loader import load as load_config  # noqa: PLC0415 - as said above

        settings = load_config(config)
        loaded.append(settings)
        yield Finding("config", "ok", str(settings.path))

    first = [
        Step("Python", _python),
        Step("libraries", _libraries),
        Step("config", load, needs=("libraries",)),
        Step("everything else", lambda: (), needs=("config",)),
    ]
    yield from in_order(first)
    for settings in loaded:
        from agent.cli.check.local import local_steps  # noqa: PLC0415 - as in load()
        from agent.cli.check.snowflake import snowflake_steps  # noqa: PLC0415 - as in load()

        yield from in_order(local_steps(settings) + ([] if offline else snowflake_steps(settings)))


def _python() -> Iterator[Finding]:
    yield Finding("Python", "ok", f"{platform.python_version()}, badge-agent {__version__}")


def _libraries() -> Iterator[Finding]:
    versions: dict[str, str] = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError as error:
            raise AgentError(
                f"{name} is not installed", hint=f"sudo apt install {LIBRARIES[name]}"
            ) from error
    yield Finding("libraries", "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))
