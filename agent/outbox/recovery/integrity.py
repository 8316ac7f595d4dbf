"""A look at an outbox from outside: is there one, may this user read it, is the file whole."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from agent.errors import OutboxCorruptError
from agent.outbox import schema
from agent.outbox.database import OUTBOX_FILE, open_external, translated

# SQLite's virtual machine asks whether to go on after so many of its instructions: often enough to
# stop in time on a slow card, too seldom to slow the reading.
_STEPS_BETWEEN_LOOKS = 1_000
_FAULTS_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Inspection:
    """What SQLite's quick_check found; `complete` is False when time was up before the end."""

    faults: tuple[str, ...]
    complete: bool


def inspect(state_dir: Path, *, limit_s: float) -> Inspection:
    """Check the file's structure beside whoever writes it, changing nothing, for at most `limit_s`.

    Raises OutboxError when the file cannot be read, OutboxVersionError for one of a newer program.
    """
    path = state_dir / OUTBOX_FILE
    try:
        with translated(path), contextlib.closing(open_external(state_dir, "ro")) as connection:
            schema.refuse_newer(connection, path)
            return _quick_check(connection, time.monotonic() + limit_s)
    except OutboxCorruptError as error:
        return Inspection((str(error),), complete=False)


def _quick_check(connection: sqlite3.Connection, deadline: float) -> Inspection:
    connection.set_progress_handler(lambda: time.monotonic() >= deadline, _STEPS_BETWEEN_LOOKS)
    try:
        found = [str(row[0]) for row in connection.execute(f"PRAGMA quick_check({_FAULTS_SHOWN})")]
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return Inspection((), complete=False)
        raise
    return Inspection(tuple(line for line in found if line != "ok"), complete=True)


def fault_in(state_dir: Path) -> OutboxCorruptError | None:
    """Look through the whole file, beside its writer. Returns what is wrong with it, or None."""
    path = state_dir / OUTBOX_FILE
    try:
        with translated(path), contextlib.closing(open_external(state_dir, "ro")) as connection:
            answer = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except OutboxCorruptError as error:
        return error
    return None if answer == "ok" else OutboxCorruptError(f"{path}: {answer.splitlines()[-1]}")
