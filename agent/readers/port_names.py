"""The names of this machine's serial ports: which stay the same, and which of them several devices claim."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from agent.errors import PortError
from agent.settings import ReaderSettings

DEV = Path("/dev")
SYS_TTY = Path("/sys/class/tty")
# Where udev records the devices that claim a name: a directory for each name, an entry for each device.
UDEV_LINKS = Path("/run/udev/links")

_BY_ID = "serial/by-id/*"
_BY_PATH = "serial/by-path/*"
# The ports on the Raspberry Pi's pins; serial0 is a link to one of them.
_BUILT_IN = ("serial0", "ttyAMA[0-9]", "ttyS[0-9]")
# The kernel assigns these numbers again at every plugging and every boot.
_UNSTABLE_NAME = re.compile(r"tty(USB|ACM)[0-9]+")


def serial_devices() -> list[str]:
    """The adapters, or else the built-in ports: each device once, under its most stable name.

    A name that several devices claim leads to another one of them after a replugging, and is left out.
    """
    # Adapters without a serial number share one name by id; their names by path differ.
    return _unique((_BY_ID, _BY_PATH)) or _unique(_BUILT_IN)


def stable_name_of(device: str) -> str | None:
    """A name of a device that replugging does not change, by id or else by path; None without one."""
    target = os.path.realpath(device)
    names = chain(sorted(DEV.glob(_BY_ID)), sorted(DEV.glob(_BY_PATH)))
    return next(
        (str(name) for name in names if os.path.realpath(name) == target and not is_shared(str(name))), None
    )


def is_unstable(device: str) -> bool:
    """True for a name with a number that the kernel assigns, such as /dev/ttyUSB0."""
    path = Path(device)
    return path.parent == DEV and _UNSTABLE_NAME.fullmatch(path.name) is not None


def is_shared(device: str) -> bool:
    """True if several of the devices that are plugged in claim this name: udev gives it to one of them.

    Adapters without a serial number, or with equal ones, claim the same name by id.
    """
    path = Path(device)
    if not path.is_relative_to(DEV):
        return False
    name = str(path.relative_to(DEV))
    # Up to systemd 252 the recorded name begins with a slash.
    return any(_claimants(UDEV_LINKS / _escaped(each)) > 1 for each in (name, f"/{name}"))


def require_own_device(reader: ReaderSettings, readers: Sequence[ReaderSettings]) -> None:
    """Raises PortError while another of the readers is to use the device that this one's port leads to."""
    rival = rival_of(reader, readers)
    if rival is not None:
        raise PortError(
            f"{reader.port} is at present {os.path.realpath(reader.port)}, the port of reader {rival.id}",
            hint="give both readers names that differ for every socket: ls -l /dev/serial/by-path/",
        )


def rival_of(reader: ReaderSettings, readers: Sequence[ReaderSettings]) -> ReaderSettings | None:
    """The reader whose port is the same device at present and which has it before this one; None without.

    A name that can lead to another device yields to one that cannot, a later reader to an earlier one.
    Readers that share one port are no rivals.
    """
    device = os.path.realpath(reader.port)
    ranks = {
        _rank(str(other.port), number): other
        for number, other in enumerate(readers)
        if os.path.realpath(other.port) == device
    }
    first = ranks[min(ranks)] if ranks else reader
    return None if first.port == reader.port else first


def _claimants(directory: Path) -> int:
    try:
        return sum(not entry.name.startswith(".") for entry in directory.iterdir())
    except OSError:
        return 0


def _rank(device: str, number: int) -> tuple[bool, bool, int]:
    return is_unstable(device), is_shared(device), number


def _escaped(name: str) -> str:
    """As systemd's udev_node_escape_path()."""
    return name.replace("\\", "\\x5c").replace("/", "\\x2f")


def _unique(patterns: tuple[str, ...]) -> list[str]:
    names = chain.from_iterable(sorted(DEV.glob(pattern)) for pattern in patterns)
    by_device: dict[str, str] = {}
    for name in _with_hardware(names):
        if not is_shared(str(name)):
            by_device.setdefault(os.path.realpath(name), str(name))
    return list(by_device.values())


def _with_hardware(names: Iterator[Path]) -> Iterator[Path]:
    """Without ttyS0 to ttyS3 where the kernel made them for absent hardware: their type is 0."""
    for name in names:
        kind = SYS_TTY / Path(os.path.realpath(name)).name / "type"
        if not kind.exists() or kind.read_text().strip() != "0":
            yield name
