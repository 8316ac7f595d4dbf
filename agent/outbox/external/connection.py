"""Connections of other processes to the outbox of an agent that may be running."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from agent.errors import NotPermittedError, OutboxError
from agent.outbox.database import OUTBOX_FILE, open_external
from agent.outbox.file_errors import translated
from agent.outbox.recovery.hidden_frames import hides_commits
from agent.outbox.schema import VERSION
from agent.outbox.state_lock import is_open


@contextlib.contextmanager
def outbox_connection(state_dir: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection, "ro" or "rw". Raises OutboxError if there is no outbox, NotPermittedError."""
    path = state_dir / OUTBOX_FILE
    if not is_there(state_dir):
        raise OutboxError(
            f"there is no outbox in {state_dir}",
            hint="it is made when the agent first runs; is [agent] state_dir right?",
        )
    # The last connection that may write copies what SQLite reads of the log, and deletes the rest.
    if mode == "rw" and not is_open(state_dir) and hides_commits(path):
        raise OutboxError(
            f"{path}-wal is damaged",
            hint="start the agent once, it repairs the outbox: sudo systemctl restart badge-agent",
        )
    with translated(path), contextlib.closing(open_external(state_dir, mode)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version != VERSION:
            raise OutboxError(
                f"{path} has schema {version}, this program works with {VERSION}",
                hint="start the agent once: sudo systemctl restart badge-agent",
            )
        yield connection


def one_number(connection: sqlite3.Connection, query: str, *values: object) -> int:
    """The first column of the first row as a whole number; 0 where there is none."""
    found = connection.execute(query, values).fetchone()
    return int(found[0] or 0) if found else 0


def is_there(state_dir: Path) -> bool:
    """True if there is an outbox. Raises NotPermittedError if this user may not read it."""
    path = state_dir / OUTBOX_FILE
    try:
        # stat() first: access(2) alone does not distinguish a missing file from a forbidden one.
        path.stat()
        may_read = os.access(path, os.R_OK)
    except PermissionError:
        may_read = False
    except OSError:
        return False  # absent, or a link that leads nowhere
    if not may_read:
        raise NotPermittedError(
            f"this user may not read {path}", hint="run the same command with sudo, or as the agent's user"
        )
    return True
