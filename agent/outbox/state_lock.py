"""The locks on a state directory: one agent at a time, and one process that has the outbox open.

An agent takes its own lock before it opens a port, so that a second one is refused immediately; then that
of the outbox. A `replay` without an agent takes the lock of the outbox only. It releases it when an agent is
there, whose readers are read meanwhile.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
import time
from pathlib import Path

from agent.errors import (
    NotPermittedError,
    OutboxBusyError,
    OutboxError,
    OutboxFailingError,
    OutboxInUseError,
)
from agent.guarded_file import ForeignFileError, open_guarded, read_guarded

LOCK_FILE = "outbox.lock"
OPEN_FILE = "outbox.open.lock"
# `status` takes the lock briefly to test it; an agent that starts at that moment waits up to this long.
_TIMEOUT_S = 1.0
# A `replay` gives the outbox up between two requests, which usually take less than a second.
_GIVEN_UP_S = 3.0
_PID_BYTES = 32
_PID = re.compile(rb"([1-9][0-9]{0,8})\n?")
_LOCKS = Path("/proc/locks")


class _FileLock:
    """An exclusive lock on a file in the state directory, held until release() or the end of the process."""

    # What a failing disk means: the end of a start, or another try.
    _failure: type[OutboxError] = OutboxError

    def __init__(self, path: Path) -> None:
        """Open the file; the directory is created if it does not exist. Raises OutboxError."""
        state_dir = path.parent
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = open_guarded(path, os.O_RDWR | os.O_CREAT)
        except ForeignFileError as error:
            raise OutboxError(f"{path}: {error.strerror}", hint=f"ls -l {state_dir}") from error
        except PermissionError as error:
            raise NotPermittedError(
                f"cannot write in the state directory {state_dir}",
                hint="run as the agent's user, or: sudo chown badge-agent: " + str(state_dir),
            ) from error
        except OSError as error:
            raise self._failure(
                f"cannot open {path}: {error.strerror}",
                hint="check that the directory exists and the disk is writable: mount | grep ' / '",
            ) from error

    def take(self, timeout_s: float) -> str | None:
        """Take the lock. Returns None, or the pid of the process that has it; then the file is closed."""
        if not self._wait(timeout_s):
            holder = ""
            with contextlib.suppress(OSError):
                holder = os.pread(self._fd, _PID_BYTES, 0).decode("ascii", "replace").strip()
            os.close(self._fd)
            return holder or "unknown"
        # The pid is used in messages only: a full disk must not prevent the start.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return None

    def _wait(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
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


class StateLock(_FileLock):
    """The lock of an agent on its state directory."""

    def __init__(self, state_dir: Path) -> None:
        """Take the lock. Raises OutboxInUseError if another agent has it, OutboxError if the disk fails."""
        super().__init__(state_dir / LOCK_FILE)
        if (holder := self.take(_TIMEOUT_S)) is not None:
            raise OutboxInUseError(
                f"another badge-agent (pid {holder}) uses the state directory {state_dir}",
                hint="stop it first (sudo systemctl stop badge-agent), or give this one another state_dir",
            )


class OutboxLock(_FileLock):
    """The lock of the process that has the outbox open for sending."""

    # An agent reads cards by now, which wait in memory.
    _failure = OutboxFailingError

    def __init__(self, state_dir: Path) -> None:
        """Take the lock. OutboxBusyError while another process has it, OutboxFailingError, OutboxError."""
        super().__init__(state_dir / OPEN_FILE)
        if (holder := self.take(_GIVEN_UP_S)) is not None:
            raise OutboxBusyError(
                f"a `badge-agent replay` (pid {holder}) has the outbox in {state_dir} open",
                hint=f"it gives it up after its request; if it was suspended: kill -CONT {holder}",
            )


def is_held(state_dir: Path) -> bool:
    """True while an agent holds the directory. Never waits, never creates a file."""
    return _is_locked(state_dir / LOCK_FILE)


def is_open(state_dir: Path) -> bool:
    """True while a process has the outbox open for sending. Never waits, never creates a file."""
    return _is_locked(state_dir / OPEN_FILE)


def _is_locked(path: Path) -> bool:
    try:
        fd = open_guarded(path, os.O_RDONLY)
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


def signal_holder(state_dir: Path, number: signal.Signals) -> int | None:
    """Send a signal to the agent that holds the directory; returns its pid, None if there is no such agent.

    The pid in the file is a claim: the signal goes only to a process of which the kernel says that it holds
    a lock, and that handles this signal: another process would end.
    Raises PermissionError.
    """
    try:
        claimed = _PID.fullmatch(read_guarded(state_dir / LOCK_FILE, _PID_BYTES))
        if claimed is None:
            return None
        pid = int(claimed[1])
        # First the descriptor: from here on the number cannot become that of another process.
        process = os.pidfd_open(pid)
    except (ForeignFileError, FileNotFoundError, ProcessLookupError):
        return None
    try:
        if not _locks(pid, state_dir / LOCK_FILE) or not _handles(pid, number):
            return None
        signal.pidfd_send_signal(process, number)
    except (FileNotFoundError, ProcessLookupError):
        return None  # it has just ended
    finally:
        os.close(process)
    return pid


def _locks(pid: int, path: Path) -> bool:
    """Whether the kernel lists an exclusive flock of this process on this file."""
    # The device is not compared: stat() of btrfs and overlayfs reports another one than the kernel's list.
    held = rf"^\d+: FLOCK +ADVISORY +WRITE {pid} [0-9a-f]+:[0-9a-f]+:{path.lstat().st_ino} "
    return re.search(held, _LOCKS.read_text(encoding="utf-8"), re.MULTILINE) is not None


def _handles(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: SigCgt of proc_pid_status(5)."""
    status = Path("/proc", str(pid), "status").read_text(encoding="utf-8", errors="replace")
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> number - 1 & 1)
