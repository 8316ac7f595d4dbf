"""What else uses the Raspberry Pi's own UART: the kernel's console, a login, Bluetooth."""

from __future__ import annotations

import os
import re
from pathlib import Path

from agent.readers.detect.advice import Advice

_CONSOLE = re.compile(r"\bconsole=(serial0|ttyAMA0|ttyS0)\b")
_OWN = re.compile(r"(?:serial[01]|ttyAMA\d+|ttyS\d+)")
_ALIAS = "serial0"


def users_of(
    device: str,
    *,
    proc: Path = Path("/proc"),
    dev: Path = Path("/dev"),
    units: Path = Path("/sys/fs/cgroup/system.slice/system-serial\\x2dgetty.slice"),
) -> list[Advice]:
    """Who else uses this device, if it is a UART of the machine's own; empty for a USB adapter."""
    name = Path(os.path.realpath(device)).name
    alias = Path(os.path.realpath(dev / _ALIAS)).name
    if not (_OWN.fullmatch(name) or Path(device).name == _ALIAS):
        return []
    names = {name, Path(device).name} | ({_ALIAS} if alias == name else set())
    found = []
    if console := _console(names, alias, proc):
        found.append(
            Advice(
                f"the kernel's console is on this port (console={console}): its messages are among the data",
                "sudo raspi-config nonint do_serial_cons 1, then reboot",
            )
        )
    if any((units / f"serial-getty@{each}.service").exists() for each in names):
        found.append(
            Advice(
                f"a login (serial-getty@{name}) is on this port and takes the reader's bytes",
                f"sudo systemctl disable --now serial-getty@{name}.service",
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


def _console(names: set[str], alias: str, proc: Path) -> str | None:
    try:
        command_line = (proc / "cmdline").read_text("utf-8", "replace")
    except OSError:
        return None
    for console in _CONSOLE.findall(command_line):
        if console in names or (console == _ALIAS and alias in names):
            return str(console)
    return None
