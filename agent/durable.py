"""What has to be on the disk before the next step, beside what SQLite sees to itself."""

from __future__ import annotations

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Make the bytes of a file, or the names in a directory, durable. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
