"""Runs the checks in the context of the service: its user, sandbox, environment and credentials."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from agent.cli.check.runner import Found
from agent.cli.console import Finding
from agent.errors import AgentError
from agent.service import systemctl

# Settings of the unit's process that a check does not share.
_OTHER = re.compile(
    r"Exec|Type$|Restart|Watchdog|Timeout|FileDescriptorStore|NotifyAccess|OOM|Standard(In|Out|Err)|Syslog"
)
_KEY_UNIT = "badge-agent-key.service"


@dataclass(frozen=True, slots=True)
class Service:
    """The unit's program and those of its settings that make up its context, as in the unit file."""

    program: str
    properties: tuple[str, ...]

    @property
    def user(self) -> str:
        """The user that the service runs as."""
        users = [line.partition("=")[2] for line in self.properties if line.startswith("User=")]
        return users[-1] if users else "root"


def find_service(config: Path) -> Service | None:
    """The service, if this process may run a command in its context; None for another configuration."""
    if os.geteuid() != 0 or shutil.which("systemd-run") is None:
        return None
    try:
        # Imported late: without one of the libraries, which the checks report, the import fails.
        from agent.config.loader import DEFAULT_CONFIG  # noqa: PLC0415 - see above
    except ImportError:
        return None
    if config != DEFAULT_CONFIG:
        return None
    return parse_unit(systemctl.unit_text()) if systemctl.is_installed() else None


def parse_unit(text: str) -> Service | None:
    """The service in the text of a unit file and its drop-ins; None without ExecStart=."""
    section, program, properties = "", "", []
    for line in text.replace("\\\n", " ").splitlines():
        name, equals, value = line.strip().partition("=")
        if line.startswith("["):
            section = line.strip()
        elif section != "[Service]" or not equals or name.startswith(("#", ";")):
            continue
        elif name == "ExecStart" and value:
            program = shlex.split(value)[0].lstrip("@-:+!")
        elif not _OTHER.match(name):
            properties.append(f"{name}={value}")
    return Service(program, tuple(properties)) if program else None


def run(service: Service, *, offline: bool) -> Iterator[Found]:
    """Run the checks as the service would. Raises AgentError if they cannot be run."""
    dependencies = (f"Wants={_KEY_UNIT}", f"After={_KEY_UNIT}")
    # The runtime directory is the running agent's: it must not be removed at the end of the check.
    settings = (*service.properties, *dependencies, "RuntimeDirectoryPreserve=yes")
    words = ["systemd-run", "--pipe", "--wait", "--collect", "--quiet"]
    words += [f"--property={line}" for line in settings]
    words += [service.program, "check", "--in-service", *(["--offline"] if offline else [])]
    with subprocess.Popen(  # noqa: S603 - systemd's program; the rest is from the unit
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None  # noqa: S101 - for the type checker
        assert process.stderr is not None  # noqa: S101 - for the type checker
        count = 0
        for line in process.stdout:
            count += 1
            yield parse_line(line)
        errors = process.stderr.read().strip().splitlines()
    if not count or process.returncode:
        why = errors[-1] if errors else f"systemd-run ended with {process.returncode}"
        raise AgentError(f"the checks cannot be run as the service: {why}")


def line_of(found: Found) -> str:
    """A result as one line of JSON."""
    return json.dumps(asdict(found))


def parse_line(line: str) -> Found:
    """The result in a line of line_of(). Raises AgentError for any other line."""
    try:
        values = json.loads(line)
        return Found(Finding(**values["finding"]), values["exit_code"])
    except (ValueError, KeyError, TypeError) as error:
        raise AgentError("the checks cannot be run as the service: its program printed no result") from error
