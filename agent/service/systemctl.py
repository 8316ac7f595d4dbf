"""The service as systemd runs it: asked and told through systemctl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from agent.errors import AgentError

UNIT = "badge-agent.service"
BOOTED = Path("/run/systemd/system")  # sd_booted(3)

_LONGEST_S = 180.0  # a start may read through a damaged outbox; then it goes on without us
_LOG_HINT = f"journalctl -u {UNIT} -n 30"


def is_there() -> bool:
    """Whether systemd runs this machine and knows the service."""
    return BOOTED.is_dir() and shutil.which("systemctl") is not None and _succeeds("cat", UNIT)


def is_active() -> bool:
    """Whether the service runs."""
    return _succeeds("is-active", "--quiet", UNIT)


def enable_and_start() -> None:
    """Now and at every boot; returns when it is ready. Raises AgentError."""
    _do("enable", "--now", UNIT)


def restart() -> None:
    """Stop and start; returns when it is ready. Raises AgentError."""
    _do("restart", UNIT)


def reload() -> None:
    """Have the running agent read its key again. Raises AgentError."""
    _do("reload", UNIT)


def _succeeds(*words: str) -> bool:
    return _systemctl(*words).returncode == 0


def _do(*words: str) -> None:
    done = _systemctl(*words)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        why = f": {said[0]}" if said else f" with exit code {done.returncode}"
        raise AgentError(f"systemctl {' '.join(words)} failed{why}", hint=_LOG_HINT)


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - systemd's program, our own words
            ["systemctl", *words],  # noqa: S607 - wherever the machine has it
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(f"systemctl {' '.join(words)}: {error}", hint=_LOG_HINT) from error
