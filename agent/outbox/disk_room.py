"""How much space the disk of the state directory has left."""

from __future__ import annotations

import os
from pathlib import Path

# A flooding reader gets no more of the disk than leaves this much to the others and to the system.
_SHARE_LEFT = 5  # one part of so many
_LEAST_LEFT_BYTES = 200_000_000


def free_bytes(directory: Path) -> int:
    """The bytes that this process may still write to the disk of a directory. Raises OSError."""
    disk = os.statvfs(directory)
    return disk.f_bavail * disk.f_frsize


def is_short(directory: Path) -> bool:
    """Less than a fifth of the disk or less than 200 MB is free; also if the disk does not answer."""
    try:
        disk = os.statvfs(directory)
    except OSError:
        return True
    free = disk.f_bavail * disk.f_frsize
    return free < max(_LEAST_LEFT_BYTES, disk.f_blocks * disk.f_frsize // _SHARE_LEFT)
