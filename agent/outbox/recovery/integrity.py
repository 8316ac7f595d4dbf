"""Checks the structure of an outbox file with SQLite's quick_check, in parallel with its writer."""

from __future__ import annotations

import contextlib
import math
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from agent.errors import OutboxCorruptError
from agent.outbox import schema
from agent.outbox.database import OUTBOX_FILE, open_external
from agent.outbox.file_errors import translated

# SQLite calls the progress handler after this many instructions of its virtual machine: often enough to
# meet the deadline on a slow card, too seldom to slow the check.
_PROGRESS_INSTRUCTIONS = 1_000
_FAULTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Inspection:
    """What SQLite's quick_check found; `complete` is False if the deadline came first."""

    faults: tuple[str, ...]
    complete: bool


def inspect(state_dir: Path, *, limit_s: float) -> Inspection:
    """Check the file's structure read-only, for at most `limit_s`.

    Raises OutboxError when the file cannot be read, OutboxVersionError for a newer schema.
    """
    try:
        return _inspect(state_dir, limit_s)
    except OutboxCorruptError as error:
        return Inspection((str(error),), complete=False)


def fault_in(state_dir: Path) -> OutboxCorruptError | None:
    """Check the whole file read-only, however long it takes. Returns its fault, or None."""
    try:
        found = _inspect(state_dir, math.inf)
    except OutboxCorruptError as error:
        return error
    if not found.faults:
        return None
    return OutboxCorruptError(f"{state_dir / OUTBOX_FILE}: {found.faults[0].splitlines()[-1]}")


def _inspect(state_dir: Path, limit_s: float) -> Inspection:
    path = state_dir / OUTBOX_FILE
    with translated(path), contextlib.closing(open_external(state_dir, "ro")) as connection:
        schema.refuse_newer(connection, path)
        return _quick_check(connection, time.monotonic() + limit_s)


def _quick_check(connection: sqlite3.Connection, deadline: float) -> Inspection:
    if deadline < math.inf:
        connection.set_progress_handler(lambda: time.monotonic() >= deadline, _PROGRESS_INSTRUCTIONS)
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({_FAULTS_SHOWN})")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return Inspection((), complete=False)
        raise
    return Inspection(tuple(line for line in found if line != "ok"), complete=True)
