"""The lock on a state directory: one agent at a time."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from pathlib import Path

from agent.errors import NotPermittedError, OutboxError, OutboxInUseError

LOCK_FILE = "outbox.lock"
# `status` takes the lock briefly to test it; an agent that starts at that moment waits up to this long.
_TIMEOUT_S = 1.0


class StateLock:
    """An exclusive lock on a state directory, held until release() or the end of the process."""

    def __init__(self, state_dir: Path) -> None:
        """Take the lock. Raises OutboxInUseError if another agent has it, OutboxError if the disk fails.

        The directory is created if it does not exist.
        """
        path = state_dir / LOCK_FILE
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            raise NotPermittedError(
                f"cannot write in the state directory {state_dir}",
                hint="run as the agent's user, or: sudo chown badge-agent: " + str(state_dir),
            ) from error
        except OSError as error:
            raise OutboxError(
                f"cannot open {path}: {error.strerror}",
                hint="check that the directory exists and the disk is writable: mount | grep ' / '",
            ) from error
        if not self._take():
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise OutboxInUseError(
                f"another badge-agent (pid {holder}) uses the state directory {state_dir}",
                hint="stop it first (sudo systemctl stop badge-agent), or give this one another state_dir",
            )
        # The pid is used in messages only: a full disk must not prevent the start.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _take(self) -> bool:
        deadline = time.monotonic() + _TIMEOUT_S
        while True:
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.05)
            else:
                return True

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)


def is_held(state_dir: Path) -> bool:
    """True while an agent holds the directory. Never waits, never creates a file."""
    try:
        fd = os.open(state_dir / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def holder(state_dir: Path) -> int | None:
    """The pid of the agent that holds the directory; None if there is none or its pid is unknown."""
    if not is_held(state_dir):
        return None
    text = (state_dir / LOCK_FILE).read_text(encoding="ascii", errors="replace").strip()
    return int(text) if text.isdecimal() else None
