"""The names of this machine's serial ports, and which of them stay the same after replugging."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

DEV = Path("/dev")
SYS_TTY = Path("/sys/class/tty")

_BY_ID = "serial/by-id/*"
# Adapters without a serial number share one name by id; their names by path differ.
_ADAPTERS = (_BY_ID, "serial/by-path/*")
# The ports on the Raspberry Pi's pins; serial0 is a link to one of them.
_BUILT_IN = ("serial0", "ttyAMA[0-9]", "ttyS[0-9]")


def serial_devices() -> list[str]:
    """The adapters, or else the built-in ports: each device once, under its most stable name."""
    return _unique(_ADAPTERS) or _unique(_BUILT_IN)


def stable_name_of(device: str) -> str | None:
    """The name of a device under /dev/serial/by-id, which replugging does not change; None without one."""
    target = os.path.realpath(device)
    names = sorted(DEV.glob(_BY_ID))
    return next((str(name) for name in names if os.path.realpath(name) == target), None)


def _unique(patterns: tuple[str, ...]) -> list[str]:
    names = chain.from_iterable(sorted(DEV.glob(pattern)) for pattern in patterns)
    by_device: dict[str, str] = {}
    for name in _with_hardware(names):
        by_device.setdefault(os.path.realpath(name), str(name))
    return list(by_device.values())


def _with_hardware(names: Iterator[Path]) -> Iterator[Path]:
    """Without ttyS0 to ttyS3 where the kernel made them for absent hardware: their type is 0."""
    for name in names:
        kind = SYS_TTY / Path(os.path.realpath(name)).name / "type"
        if not kind.exists() or kind.read_text().strip() != "0":
            yield name
