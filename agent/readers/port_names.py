"""The serial ports of this machine on which a reader may hang, by names that last."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

DEV = Path("/dev")
SYS_TTY = Path("/sys/class/tty")

# Adapters without a serial number share one name by id; the socket they are plugged into tells them apart.
_PLUGGED = ("serial/by-id/*", "serial/by-path/*")
# The ports on the Raspberry Pi's pins; serial0 is whichever of them leads there.
_BUILT_IN = ("serial0", "ttyAMA[0-9]", "ttyS[0-9]")


def serial_devices() -> list[str]:
    """What is plugged in, or else the built-in ports: each once, under its most lasting name."""
    return _once(_PLUGGED) or _once(_BUILT_IN)


def _once(patterns: tuple[str, ...]) -> list[str]:
    names = chain.from_iterable(sorted(DEV.glob(pattern)) for pattern in patterns)
    by_device: dict[str, str] = {}
    for name in _with_hardware(names):
        by_device.setdefault(os.path.realpath(name), str(name))
    return list(by_device.values())


def _with_hardware(names: Iterator[Path]) -> Iterator[Path]:
    """The kernel makes ttyS0 to ttyS3 on every PC; type 0 is a port with nothing behind it."""
    for name in names:
        kind = SYS_TTY / Path(os.path.realpath(name)).name / "type"
        if not kind.exists() or kind.read_text().strip() != "0":
            yield name


def lasting_name_of(device: str, directory: Path = Path("/dev/serial/by-id")) -> str | None:
    """The name of a device that stays the same when it is plugged in again; None if it has none."""
    target = os.path.realpath(device)
    with contextlib.suppress(OSError):
        for name in sorted(directory.iterdir()):
            if os.path.realpath(name) == target:
                return str(name)
    return None
