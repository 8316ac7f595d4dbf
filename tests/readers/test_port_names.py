from __future__ import annotations

from pathlib import Path

import pytest

from agent.readers import port_names
from agent.readers.port_names import serial_devices, stable_name_of


@pytest.fixture(autouse=True)
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(port_names, "DEV", tmp_path / "dev")
    monkeypatch.setattr(port_names, "SYS_TTY", tmp_path / "sys")
    (tmp_path / "dev").mkdir()
    return tmp_path / "dev"


def link(path: Path, target: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return str(path)


def test_each_adapter_is_named_once_by_what_lasts(dev: Path) -> None:
    for name in ("ttyUSB0", "ttyUSB1", "ttyS0"):
        (dev / name).touch()
    by_id = link(dev / "serial/by-id/usb-twin", dev / "ttyUSB0")  # its twin has the same name, so none
    link(dev / "serial/by-path/usb-1", dev / "ttyUSB0")
    by_path = link(dev / "serial/by-path/usb-2", dev / "ttyUSB1")
    link(dev / "serial/by-path/usbv2-2", dev / "ttyUSB1")

    assert serial_devices() == [by_id, by_path]


def test_with_nothing_plugged_in_the_ports_on_the_pins_are_offered(dev: Path) -> None:
    (dev / "ttyAMA0").touch()
    (dev / "ttyAMA1").touch()
    primary = link(dev / "serial0", dev / "ttyAMA0")

    assert serial_devices() == [primary, str(dev / "ttyAMA1")]


def test_a_port_with_nothing_behind_it_is_none(dev: Path, tmp_path: Path) -> None:
    for number, kind in enumerate(("4", "0")):
        (dev / f"ttyS{number}").touch()
        (tmp_path / "sys" / f"ttyS{number}").mkdir(parents=True)
        (tmp_path / "sys" / f"ttyS{number}" / "type").write_text(f"{kind}\n")

    assert serial_devices() == [str(dev / "ttyS0")]


def test_a_machine_may_have_none() -> None:
    assert serial_devices() == []


def test_the_stable_name_of_a_port_is_the_link_to_it_by_id(dev: Path) -> None:
    one = link(dev / "serial/by-id/usb-one", dev / "ttyUSB0")
    link(dev / "serial/by-id/usb-two", dev / "ttyUSB1")

    assert stable_name_of(str(dev / "ttyUSB0")) == one
    assert stable_name_of(str(dev / "ttyUSB2")) is None
