"""State and control of the systemd service, through systemctl."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from agent.errors import AgentError

UNIT = "badge-agent.service"
BOOTED = Path("/run/systemd/system")  # sd_booted(3)

_TIMEOUT_S = 180.0  # a start may rebuild a damaged outbox; systemd continues it after this timeout
_LONGEST_DELAY_S, _MOST_STEPS = 60.0, 8  # as RestartMaxDelaySec= and RestartSteps= of the unit
_LOG_HINT = f"journalctl -u {UNIT} -n 30"


def is_installed() -> bool:
    """Whether systemd runs on this machine and has the service's unit."""
    return BOOTED.is_dir() and shutil.which("systemctl") is not None and _succeeds("cat", UNIT)


def unit_text() -> str:
    """The text of the unit file and of its drop-ins, in the order in which they apply."""
    return _systemctl("cat", UNIT).stdout


def missing_restart_delay_s() -> float:
    """How long this process should wait before it ends with an error, so that restarts become rarer.

    0.0 at the first start, and from systemd 254 on, which waits by itself (RestartSteps= of the unit).
    """
    shown = _systemctl("show", UNIT, "--property=NRestarts", "--property=RestartUSecNext").stdout
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    restarts = values.get("NRestarts", "")
    if "RestartUSecNext" in values or not restarts.isdecimal() or restarts == "0":
        return 0.0
    return min(_LONGEST_DELAY_S, 2.0 ** min(int(restarts), _MOST_STEPS))


def main_pid() -> int:
    """The process of the service; 0 if it does not run."""
    value = _systemctl("show", UNIT, "--property=MainPID", "--value").stdout.strip()
    return int(value) if value.isdecimal() else 0


def is_active() -> bool:
    """Whether the service is active."""
    return _succeeds("is-active", "--quiet", UNIT)


def enable_and_start() -> None:
    """Start it now and at every boot; returns when it is ready. Raises AgentError."""
    _do("enable", "--now", UNIT)


def restart() -> None:
    """Stop and start it; returns when it is ready. Raises AgentError."""
    _do("restart", UNIT)


def reload() -> None:
    """Make the running agent load its key again. Raises AgentError."""
    _do("reload", UNIT)


def _succeeds(*words: str) -> bool:
    return _systemctl(*words).returncode == 0


def _do(*words: str) -> None:
    done = _systemctl(*words)
    if done.returncode != 0:
        errors = done.stderr.strip().splitlines()
        why = f": {errors[0]}" if errors else f" with exit code {done.returncode}"
        raise AgentError(f"systemctl {' '.join(words)} failed{why}", hint=_LOG_HINT)


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603 - systemd's program, fixed arguments
            ["systemctl", *words],  # noqa: S607 - found through PATH
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(f"systemctl {' '.join(words)}: {error}", hint=_LOG_HINT) from error
