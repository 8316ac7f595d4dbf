"""The parts of a report: each is a file with the text of one source, or the reason why there is none."""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from agent import __version__
from agent.cli.check import LIBRARIES, run_checks
from agent.cli.console import plain_lines
from agent.cli.report.redaction import REMOVED
from agent.errors import AgentError
from agent.outbox.database import SQLITE_VERSION
from agent.outbox.external import holds
from agent.owner import call_as_owner, call_in_child
from agent.service.status_file import door_status
from agent.settings import Settings

_PROGRAM_TIMEOUT_S = 30.0
# The newest lines and bytes: a support case is about the last days, and an archive has to fit into a mail.
_LINES = 5_000
_LARGEST_BYTES = 2_000_000
_KERNEL = re.compile(r"tty|mmc|usb|serial|I/O error|EXT4-fs|voltage|out of memory", re.IGNORECASE)
_JOURNAL = ("journalctl", "--no-pager", "--output=short-iso", f"--lines={_LINES}")


@dataclass(frozen=True, slots=True)
class Part:
    """A file of the report; `text` makes its content, and may raise AgentError or OSError."""

    name: str
    source: str
    text: Callable[[], str]


def parts_of(config: Path, settings: Settings | None, why: str, *, offline: bool) -> Iterator[Part]:
    """Every part. `settings` is None if the configuration cannot be used, for the reason `why`.

    What belongs to the service's account is read as that account; the rest as the caller.
    """
    yield Part("check.txt", "badge-agent check", partial(_check, config, offline=offline))
    yield Part("config.json", f"{config}, as it is used", partial(_config, settings, why))
    for name, function in (("status.json", _status), ("held_rows.json", _held), ("files.txt", _files)):
        yield Part(name, "the state and runtime directories", partial(_as_owner, function, settings, why))
    yield Part("versions.json", "this machine", _versions)
    yield Part("devices.txt", "/dev/serial", _devices)
    words: tuple[str, ...]
    for name, words in (
        ("journal.txt", (*_JOURNAL, "--unit=badge-agent", "--unit=badge-agent-key")),
        ("service.txt", ("systemctl", "status", "--no-pager", "--full", "--lines=0", "badge-agent")),
        ("clock.txt", ("timedatectl",)),
        ("disks.txt", ("df", "--human-readable", "--print-type")),
    ):
        yield Part(name, " ".join(words), partial(_output, words))
    yield Part("kernel.txt", "kernel messages on ports, cards and memory", _kernel)


def _check(config: Path, *, offline: bool) -> str:
    def lines() -> list[str]:
        findings = (found.finding for found in run_checks(config, offline=offline))
        return [line for one in findings for line in plain_lines(one)]

    return "\n".join(call_in_child(lines)) + "\n"


def _config(settings: Settings | None, why: str) -> str:
    """The settings that the agent knows: a file that names a secret is named, nothing is read from it."""
    loaded = _loaded(settings, why)
    values = asdict(loaded)
    if loaded.heartbeat.url is not None:
        values["heartbeat"]["url"] = REMOVED
    return _json(values)


def _as_owner(function: Callable[[Settings], str], settings: Settings | None, why: str) -> str:
    loaded = _loaded(settings, why)
    return call_as_owner(lambda: function(loaded), loaded.agent.state_dir, loaded.agent.runtime_dir)


def _loaded(settings: Settings | None, why: str) -> Settings:
    if settings is None:
        raise AgentError(why)
    return settings


def _status(settings: Settings) -> str:
    return _json(door_status(settings))


def _held(settings: Settings) -> str:
    return _json([asdict(hold) for hold in holds.holds(settings.agent.state_dir)])


def _files(settings: Settings) -> str:
    lines = []
    for directory in (settings.agent.state_dir, settings.agent.runtime_dir):
        if not directory.is_dir():
            lines.append(f"no directory {directory}")  # that of a stopped service is removed
            continue
        for path in (directory, *sorted(directory.iterdir())):
            found = path.lstat()
            changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(found.st_mtime))
            owner = f"{found.st_uid}:{found.st_gid}"
            lines.append(f"{stat.filemode(found.st_mode)} {owner} {found.st_size:>12} {changed} {path}")
    return "\n".join(lines) + "\n"


def _versions() -> str:
    model = Path("/proc/device-tree/model")
    release = platform.freedesktop_os_release().get("PRETTY_NAME")
    return _json(
        {
            "badge-agent": __version__,
            "python": platform.python_version(),
            "sqlite": SQLITE_VERSION,
            **{name: _version(name) for name in LIBRARIES},
            "system": release,
            "kernel": platform.release(),
            "machine": platform.machine(),
            "model": model.read_text().rstrip("\0") if model.exists() else None,
        }
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> str:
    links = sorted(Path("/dev/serial").glob("*/*"))
    return "".join(f"{link} -> {os.path.realpath(link)}\n" for link in links) or "no port by id or path\n"


def _kernel() -> str:
    try:
        text = _output((*_JOURNAL, "--dmesg"))
    except AgentError:
        text = _output(("dmesg", "--time-format=iso"))
    found = [line for line in text.splitlines() if _KERNEL.search(line)]
    if not found:
        raise AgentError("no kernel message on ports, cards and memory")
    return "\n".join(found) + "\n"


def _output(words: tuple[str, ...]) -> str:
    """What a program of the system prints, errors included. Raises AgentError."""
    try:
        done = subprocess.run(  # noqa: S603 - a program of the system, fixed arguments
            words,
            capture_output=True,
            timeout=_PROGRAM_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except FileNotFoundError as error:
        raise AgentError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise AgentError(f"{words[0]} did not end within {_PROGRAM_TIMEOUT_S:.0f} s") from error
    output = done.stdout[-_LARGEST_BYTES:].decode(errors="replace")
    if not output.strip():
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        raise AgentError(errors[-1] if errors else f"{words[0]} printed nothing")
    return output


def _json(value: Any) -> str:  # noqa: ANN401 - whatever json takes
    return json.dumps(value, indent=2, default=str) + "\n"
