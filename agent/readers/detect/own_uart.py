"""What else uses a serial port of this machine: a login; on its own UART the kernel's console, Bluetooth."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from agent.readers import port_names

COMMAND_LINE = Path("/proc/cmdline")  # of the kernel
# The logins' control groups; below `systemd` with the legacy hierarchy of version 1.
UNITS = tuple(
    Path("/sys/fs/cgroup", hierarchy, "system.slice", r"system-serial\x2dgetty.slice")
    for hierarchy in ("", "systemd")
)

_CONSOLE = re.compile(r"\bconsole=(serial0|ttyAMA0|ttyS0)\b")
_OWN = re.compile(r"(?:serial[01]|ttyAMA\d+|ttyS\d+)")
_ALIAS = "serial0"


@dataclass(frozen=True, slots=True)
class Advice:
    """A fault of the installation that was found, and its remedy."""

    text: str
    next: str


def users_of(device: str) -> list[Advice]:
    """Who else uses this device: a login on any port, the rest on a UART of the machine's own."""
    resolved, dev = Path(os.path.realpath(device)), port_names.DEV
    name = resolved.name
    alias = Path(os.path.realpath(dev / _ALIAS)).name
    names = {name, Path(device).name} | ({_ALIAS} if alias == name else set())
    found = _login(resolved, names)
    if not (_OWN.fullmatch(name) or Path(device).name == _ALIAS):
        return found
    if console := _console(names, alias):
        found.append(
            Advice(
                f"the kernel's console is on this port (console={console}): its messages are among the data",
                "sudo raspi-config nonint do_serial_cons 1, then reboot",
            )
        )
    if name == "ttyS0" and (dev / "ttyAMA0").exists() and (dev / "serial1").exists():
        found.append(
            Advice(
                "Bluetooth has the PL011; the baud rate of this mini UART changes with the processor's clock",
                "add dtoverlay=disable-bt to /boot/firmware/config.txt, then reboot",
            )
        )
    return found


def _login(resolved: Path, names: set[str]) -> list[Advice]:
    """The unit's control group has processes while it runs; its instance is the path below /dev, escaped."""
    dev = port_names.DEV
    path = str(resolved.relative_to(dev)) if resolved.is_relative_to(dev) else resolved.name
    for instance in sorted({path.replace("/", "-"), *names}):
        if any(_has_process(slice_ / f"serial-getty@{instance}.service") for slice_ in UNITS):
            unit = f"serial-getty@{instance}"
            text = f"a login ({unit}) is on this port and takes the reader's bytes"
            return [Advice(text, f"sudo systemctl mask --now {unit}.service")]
    return []


def _has_process(group: Path) -> bool:
    try:
        return bool((group / "cgroup.procs").read_text().strip())
    except OSError:
        return False


def _console(names: set[str], alias: str) -> str | None:
    try:
        command_line = COMMAND_LINE.read_text("utf-8", "replace")
    except OSError:
        return None
    for console in _CONSOLE.findall(command_line):
        if console in names or (console == _ALIAS and alias in names):
            return str(console)
    return None
