"""badge-agent check: checks every prerequisite in order; each failure has its next step."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import pwd
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

import click

from agent import __version__
from agent.cli import config_option
from agent.cli.check.in_service import Service, find_service, line_of, run
from agent.cli.check.runner import Found, Step, in_order, within
from agent.cli.console import Finding, show
from agent.errors import AgentError
from agent.service import systemctl
from agent.settings import Settings

_TIMEOUT_S = 60.0
_CONTEXT_HINT = "systemctl cat badge-agent: a drop-in may have a setting that systemd-run does not know"
_NEXT_INDENT = " " * len("warning  next: ")

# Python distribution -> Debian package.
LIBRARIES: Mapping[str, str] = MappingProxyType(
    {
        "click": "python3-click",
        "cryptography": "python3-cryptography",
        "PyJWT": "python3-jwt",
        "pyserial": "python3-serial",
        "rich": "python3-rich",
        "sqlite-utils": "sqlite-utils",
        "zstandard": "python3-zstandard",
    }
)


@click.command("check", epilog="Example: badge-agent check --config config.toml")
@click.option("--offline", is_flag=True, help="Check this machine only, not Snowflake.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--in-service", is_flag=True, hidden=True)
@config_option
@click.pass_context
def command(context: click.Context, config: Path, *, offline: bool, as_json: bool, in_service: bool) -> None:
    """Check every prerequisite for delivering swipes.

    Each failure comes with its cause and the next command or SQL to run. The agent may be running: its
    ports, outbox and channel are not disturbed. Takes one minute at most. Run by root on a door, it
    checks with the user, the sandbox and the key of the service. It cannot see which columns the pipe
    fills, because Snowflake reports this in SQL only: badge-agent sql --only setup checks it.

    \b
    Exit code, of the first failure:
      0   no failure (warnings are possible)
      69  Snowflake is unreachable or answers unexpectedly
      74  outbox or disk
      75  the service has no site key
      77  permission denied by this machine or by Snowflake
      78  configuration, key or cardholders file
      1   any other failure, such as a reader's port
    """  # noqa: D301 - click's escape for unwrapped lines
    if in_service:
        for found in within(partial(_checks, config, offline=offline), _TIMEOUT_S):
            click.echo(line_of(found))
            sys.stdout.flush()
        return
    results = run_checks(config, offline=offline)
    founds = list(results if as_json else shown(results))
    exit_code = next((found.exit_code for found in founds if found.exit_code), 0)
    if as_json:
        findings = [dataclasses.asdict(found.finding) for found in founds]
        click.echo(json.dumps({"ok": exit_code == 0, "findings": findings}))
    context.exit(exit_code)


def run_checks(config: Path, *, offline: bool = False) -> Iterator[Found]:
    """Run every check and yield each result as it is found, for at most _TIMEOUT_S seconds."""
    return within(partial(_in_context, config, offline=offline), _TIMEOUT_S)


def shown(founds: Iterable[Found]) -> Iterator[Found]:
    """Print each result as it comes and yield it; equal next steps in a row are printed once."""
    next_before = ""
    for found in founds:
        finding = found.finding
        following = "" if finding.next == next_before else finding.next.replace("\n", "\n" + _NEXT_INDENT)
        show(dataclasses.replace(finding, next=following))
        next_before = finding.next
        yield found


def _in_context(config: Path, *, offline: bool) -> Iterator[Found]:
    """The checks in the service's context if that is possible, else in this process; says which."""
    context = Finding("context", "ok", f"{_acting_user()}, without the sandbox of a service")
    seen: set[Finding] = set()
    try:
        service = find_service(config)
        if service is not None:
            for found in run(service, offline=offline):
                if not seen:
                    yield Found(_context_of(service))
                seen.add(found.finding)
                yield found
    except AgentError as error:
        text = f"{error}; checked without the sandbox of the service instead"
        context, service = Finding("context", "warning", text, _CONTEXT_HINT), None
    if service is None:
        yield Found(context)
        yield from _checks(config, offline=offline)
    else:
        # Only root sees the open files of other programs.
        yield from (found for found in _port_users(config) if found.finding not in seen)


def _context_of(service: Service) -> Finding:
    return Finding("context", "ok", f"as the service: user {service.user}, with its sandbox and its key")


def _acting_user() -> str:
    uid = os.geteuid()
    if uid == 0:
        return "as the owner of the state directory"  # see give_up_root()
    try:
        return f"as user {pwd.getpwuid(uid).pw_name}"
    except KeyError:  # a container may run a process under a number without an account
        return f"as user {uid}"


def _port_users(config: Path) -> Iterator[Found]:
    from agent.cli.check.local import port_users  # noqa: PLC0415 - as in load()
    from agent.config.loader import load  # noqa: PLC0415 - as in load()

    try:
        settings = load(config)
    except AgentError:  # reported by the checks
        return
    agent_pid = systemctl.main_pid()
    for reader in settings.readers:
        yield from map(Found, port_users(reader, agent_pid))


def _checks(config: Path, *, offline: bool) -> Iterator[Found]:
    loaded: list[Settings] = []

    def load() -> Iterator[Finding]:
        # Imported after the libraries were checked: without one of them the import fails.
        from agent.cli.state_access import give_up_root  # noqa: PLC0415 - see above
        from agent.config.loader import load as load_config  # noqa: PLC0415 - see above

        settings = load_config(config)
        give_up_root(settings, with_key=True)
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
