"""Quarantined copies of damaged outbox files: `outbox.db.corrupt-<k>`, a higher k for each newer one.

One that cannot be written (mode 0400) is kept for a person only: nothing more is moved from it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

from agent.atomic_file import sync
from agent.outbox.database import OUTBOX_FILE, SIDE_FILES

# Enough to examine a failing card; more would fill it.
KEPT_COPIES = 3


def copies(state_dir: Path) -> list[Path]:
    """The quarantined files, oldest first. Raises OSError if the directory cannot be read."""
    # Not glob(), which from Python 3.13 on returns nothing for a directory that cannot be read.
    found = (path for path in state_dir.iterdir() if path.name.startswith(f"{OUTBOX_FILE}.corrupt-"))
    return sorted((path for path in found if number_of(path.name)), key=lambda path: number_of(path.name))


def finish(copy: Path) -> None:
    """Mark a copy as one of which nothing is to be moved any more. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        copy.chmod(0o400)
        sync(copy)


def unfinished(state_dir: Path) -> list[Path]:
    """The copies of which rows may still have to be moved, oldest first. Raises OSError."""
    return [copy for copy in copies(state_dir) if copy.stat().st_mode & 0o200]


def number_of(name: str) -> int:
    """The number in the name of a copy; 0 if there is none."""
    number = name.rpartition("-")[2]
    return int(number) if number.isdecimal() else 0


def next_name(state_dir: Path) -> Path:
    """The name of the next copy: its number is higher than that of every copy there is."""
    number = max((number_of(path.name) for path in copies(state_dir)), default=0) + 1
    return state_dir / f"{OUTBOX_FILE}.corrupt-{number}"


def remove(copy: Path) -> None:
    """Delete a copy and its side files. Raises OSError."""
    for side in (*SIDE_FILES, ""):
        copy.with_name(copy.name + side).unlink(missing_ok=True)


def remove_oldest(state_dir: Path, *, in_use: Collection[str]) -> None:
    """Delete the oldest copies above KEPT_COPIES, without those whose rows are still to be moved.

    Raises OSError.
    """
    for copy in copies(state_dir)[:-KEPT_COPIES]:
        if copy.name not in in_use:
            remove(copy)
