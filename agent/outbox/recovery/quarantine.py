"""Quarantined copies of damaged outbox files: `outbox.db.corrupt-<k>`, a higher k for each newer one."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from agent.outbox.database import OUTBOX_FILE, SIDE_FILES

# Enough to examine a failing card; more would fill it.
KEPT_COPIES = 3


def copies(state_dir: Path) -> list[Path]:
    """The quarantined files, oldest first. Raises OSError if the directory cannot be read."""
    numbered = [
        (int(number), path)
        for path in state_dir.glob(f"{OUTBOX_FILE}.corrupt-*")
        if (number := path.name.rpartition("-")[2]).isdecimal()
    ]
    return [path for _, path in sorted(numbered)]


def next_name(state_dir: Path) -> Path:
    """The name of the next copy: its number is higher than that of every copy there is."""
    newest = copies(state_dir)[-1:]
    number = max((int(path.name.rpartition("-")[2]) for path in newest), default=0) + 1
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
