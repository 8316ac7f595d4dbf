"""Notifications to systemd and its descriptor store, as sd_notify(3); without systemd-python they do nothing.

The only module that imports systemd-python.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence

try:
    from systemd import daemon
except ImportError:  # not installed, or shadowed by the checkout's own directory of that name
    daemon = None


def send(*fields: str, fds: Sequence[int] = ()) -> None:
    """Send fields such as `READY=1` or `STATUS=...` to the service manager, if there is one."""
    if daemon is not None and os.environ.get("NOTIFY_SOCKET"):
        # The service manager may be restarting; a lost notification is repeated or has become obsolete.
        with contextlib.suppress(OSError):
            # A line break within a field would begin another one, such as WATCHDOG_USEC=1.
            daemon.notify("\n".join(" ".join(field.splitlines()) for field in fields), fds=list(fds))


def stored_descriptors() -> dict[int, str]:
    """The descriptors that systemd stored for this service: number to FDNAME. Call once per process."""
    return daemon.listen_fds_with_names(unset_environment=True) if daemon is not None else {}


def watchdog_seconds() -> float | None:
    """The watchdog timeout of this process in seconds (WatchdogSec=); None without a watchdog."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return (int(microseconds) / 1e6 or None) if microseconds.isdecimal() else None


_CHECK_EVERY_S = 10.0
# Granted by each extension; several intervals long, because a failing card can stall the process that long.
_EXTENSION_S = 90.0
# Opening or checking an outbox uses more processor time than this between two checks.
_WORK_S = 0.02


@contextlib.contextmanager
def extend_start_timeout() -> Iterator[None]:
    """Within it, extend systemd's start timeout for as long as this process uses processor time.

    A start that hangs gets no extension, so that systemd ends it.
    """
    over = threading.Event()
    if os.environ.get("NOTIFY_SOCKET"):
        threading.Thread(target=_extend_until, args=(over,), name="start-timeout", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def extend_start(status: str) -> None:
    """Extend systemd's start timeout once, by more than a minute."""
    send(f"EXTEND_TIMEOUT_USEC={int(_EXTENSION_S * 1e6)}", f"STATUS={status}")


def _extend_until(over: threading.Event) -> None:
    before = time.process_time()
    while not over.wait(_CHECK_EVERY_S):
        used = time.process_time()
        if used - before >= _WORK_S:
            extend_start("opening the outbox")
        before = used
