"""What systemd is told, and what it holds for us; with `journal` the only importer of systemd-python, and
nothing happens without it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Sequence
from typing import Self

try:
    from systemd import daemon
except ImportError:  # not installed, or only the folder of that name at the top of a checkout
    daemon = None


def tell(*fields: str, fds: Sequence[int] = ()) -> None:
    """Send fields such as `READY=1` or `STATUS=...` to the service manager, if there is one."""
    if daemon is not None and os.environ.get("NOTIFY_SOCKET"):
        # It may be starting anew itself; what it misses is told again, or is news no more.
        with contextlib.suppress(OSError):
            daemon.notify("\n".join(fields), fds=list(fds))


def stored_descriptors() -> dict[int, str]:
    """The open descriptors that the service manager kept for this service, by number, with their names."""
    return daemon.listen_fds_with_names(unset_environment=True) if daemon is not None else {}


def is_starting_us() -> bool:
    """True for a process that systemd itself has executed, not a shell or a terminal that it started."""
    return os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from this process; None when it does not watch."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return (int(microseconds) / 1e6 or None) if microseconds.isdecimal() else None


_LOOK_EVERY_S = 10.0


# Asked for at every look: several looks may pass in which a bad card lets nothing happen.
_MORE_S = 90.0


# Whoever reads through an outbox uses more of the processor than this between two looks.
_WORK_S = 0.02


class Starting:
    """While it lasts, the service manager is asked for more time whenever this process visibly works."""

    def __init__(self) -> None:
        self._over = threading.Event()

    def __enter__(self) -> Self:
        if os.environ.get("NOTIFY_SOCKET"):
            threading.Thread(target=self._ask, name="starting", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _ask(self) -> None:
        before = time.process_time()
        while not self._over.wait(_LOOK_EVERY_S):
            used = time.process_time()
            if used - before >= _WORK_S:
                tell(f"EXTEND_TIMEOUT_USEC={int(_MORE_S * 1e6)}", "STATUS=the outbox is opened, or mended")
            before = used
