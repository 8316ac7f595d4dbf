"""Which machine this is: what a copied SD card cannot take along."""

from __future__ import annotations

import hashlib
from pathlib import Path

# A Raspberry Pi's own serial number comes first: the other file lies on the card and is copied with it.
_SOURCES = (Path("/proc/device-tree/serial-number"), Path("/etc/machine-id"))


def machine_id(sources: tuple[Path, ...] = _SOURCES) -> str:
    """16 hex digits that differ from machine to machine, or "" where nothing tells."""
    for source in sources:
        try:
            text = source.read_bytes().strip(b"\0\n ")
        except OSError:
            continue
        if text:
            # Hashed, because machine-id(5) asks not to hand it around as it is.
            return hashlib.sha256(b"badge-agent" + text).hexdigest()[:16]
    return ""
