"""What systemd is told; the only module that imports systemd-python, and nothing happens without it."""

from __future__ import annotations

import os
from collections.abc import Callable

try:
    from systemd import daemon
except ImportError:  # not installed, or only the folder of that name at the top of a checkout
    _notify: Callable[[str], object] | None = None
else:
    _notify = daemon.notify


def tell(*fields: str) -> None:
    """Send fields such as `READY=1` or `STATUS=...` to the service manager, if there is one."""
    if _notify is not None and os.environ.get("NOTIFY_SOCKET"):
        _notify("\n".join(fields))


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from this process; None when it does not watch."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return (int(microseconds) / 1e6 or None) if microseconds.isdecimal() else None
