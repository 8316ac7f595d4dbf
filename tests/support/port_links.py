"""The names of serial ports as udev makes them, in a folder of the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.readers import port_names


def share_name(monkeypatch: pytest.MonkeyPatch, directory: Path, device: str) -> str:
    """A name by id that two adapters claim and that leads to `device`; it has a name by path of its own."""
    dev, links = directory / "dev", directory / "links"
    monkeypatch.setattr(port_names, "DEV", dev)
    monkeypatch.setattr(port_names, "UDEV_LINKS", links)
    for name in ("serial/by-id/usb-twin", "serial/by-path/usb-1"):
        (dev / name).parent.mkdir(parents=True)
        (dev / name).symlink_to(device)
    claimants = links / "serial\\x2fby-id\\x2fusb-twin"
    claimants.mkdir(parents=True)
    for number in ("c188:0", "c188:1"):
        (claimants / number).touch()
    return str(dev / "serial/by-id/usb-twin")
