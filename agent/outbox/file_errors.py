"""What SQLite's errors and the disk's mean for the outbox: the errors of agent.errors, with a hint."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agent.errors import (
    AgentError,
    NotPermittedError,
    OutboxBusyError,
    OutboxCorruptError,
    OutboxError,
    OutboxFailingError,
    OutboxFullError,
    OutboxReadOnlyError,
    OutboxReplacedError,
    OutboxUnavailableError,
)

# What a query on a damaged file raises. SQLite's message quotes the damaged schema, and Python's sqlite3
# decodes that message as UTF-8.
QUERY_ERRORS = (sqlite3.Error, UnicodeDecodeError)
# IOERR_CORRUPTFS: EIO on a read, a sector that the disk cannot read.
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_CORRUPTFS")
# Python's sqlite3 raises it for a value of a TEXT column, without SQLite's error name.
_NO_TEXT = "Could not decode to UTF-8"
# SHMSIZE: the disk is full, no room for the index of the WAL.
FULL = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")
BUSY = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_PROTOCOL")
_BUG_HINT = "this may be a bug, or a file that another program has changed; please report it"


def error_name(error: BaseException) -> str:
    """SQLite's name of an error; "" for an OSError and for errors of the module sqlite3 itself."""
    name: str = getattr(error, "sqlite_errorname", "")
    return name


@contextlib.contextmanager
def damaged_again() -> Iterator[None]:
    """Raise OutboxFailingError where the file that has just replaced a damaged one is damaged, too."""
    try:
        yield
    except (OutboxCorruptError, OutboxReplacedError) as error:
        raise OutboxFailingError(
            str(error), hint="the disk damages what is written: replace it; dmesg | grep -i mmc"
        ) from error


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise OutboxError or a subclass for sqlite3.Error and OSError, with the path and a hint."""
    try:
        yield
    except AgentError:
        raise
    except PermissionError as error:
        raise NotPermittedError(
            f"not permitted to use {path}",
            hint=f"run as the agent's user, or: sudo chown badge-agent: {path}",
        ) from error
    except UnicodeDecodeError as error:
        text = f"{path}: the schema is damaged"
        raise OutboxCorruptError(text, hint="it is set aside and a new one is made") from error
    except (sqlite3.Error, OSError) as error:
        name = error_name(error)
        text = f"{path}: {error}"
        if name.startswith(_DAMAGE) or str(error).startswith(_NO_TEXT):
            raise OutboxCorruptError(text, hint="it is set aside and a new one is made") from error
        raise _unavailable(name, error, path) or OutboxError(text, hint=_BUG_HINT) from error


def _unavailable(name: str, error: Exception, path: Path) -> OutboxUnavailableError | None:
    """The error for a disk or a lock that lets nothing be written now; None for any other failure."""
    text, code = f"{path}: {error}", error.errno if isinstance(error, OSError) else None
    if name.startswith(FULL) or code in {errno.ENOSPC, errno.EDQUOT}:
        return OutboxFullError(text, hint="free space on the disk: df -h")
    if name.startswith(BUSY):
        return OutboxBusyError(
            text,
            hint=f"another program holds the outbox open for writing (a sqlite3 shell, a backup): "
            f"sudo fuser -v {path}",
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN")) or code == errno.EROFS:
        return OutboxReadOnlyError(
            text, hint="is the disk read-only? A failing SD card becomes so: dmesg | grep -i mmc"
        )
    if name.startswith("SQLITE_IOERR") or code is not None:
        return OutboxFailingError(text, hint="look for disk errors: dmesg | grep -iE 'mmc|i/o error'")
    return None
