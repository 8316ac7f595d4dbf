from __future__ import annotations

from pathlib import Path

import pytest

from agent.readers import port_names
from agent.readers.port_names import is_shared, is_unstable, rival_of, serial_devices, stable_name_of
from agent.settings import ReaderSettings


@pytest.fixture(autouse=True)
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(port_names, "DEV", tmp_path / "dev")
    monkeypatch.setattr(port_names, "SYS_TTY", tmp_path / "sys")
    monkeypatch.setattr(port_names, "UDEV_LINKS", tmp_path / "links")
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


def claim(dev: Path, name: str, *devices: str) -> None:
    """As udev records the devices that claim a name."""
    directory = dev.parent / "links" / name.replace("/", "\\x2f")
    directory.mkdir(parents=True)
    for device in devices:
        (directory / device).touch()


def reader(reader_id: str, port: str) -> ReaderSettings:
    return ReaderSettings(id=reader_id, zone_id="Z", port=Path(port), protocol="rdm6300")


@pytest.mark.parametrize("first", ["", "/"], ids=["systemd 257", "systemd 252"])
def test_a_name_that_two_adapters_claim_is_not_offered(dev: Path, first: str) -> None:
    for name in ("ttyUSB0", "ttyUSB1"):
        (dev / name).touch()
    twins = link(dev / "serial/by-id/usb-twin", dev / "ttyUSB1")
    paths = [link(dev / f"serial/by-path/usb-{n}", dev / f"ttyUSB{n}") for n in (0, 1)]
    claim(dev, f"{first}serial/by-id/usb-twin", "c188:0", "c188:1")
    claim(dev, f"{first}serial/by-path/usb-0", "c188:0")

    assert is_shared(twins)
    assert not is_shared(paths[0])
    assert serial_devices() == paths
    assert stable_name_of(str(dev / "ttyUSB1")) == paths[1]


@pytest.mark.parametrize(
    ("name", "unstable"), [("ttyUSB0", True), ("ttyACM12", True), ("ttyAMA0", False), ("serial0", False)]
)
def test_only_numbers_assigned_at_plugging_are_unstable(dev: Path, name: str, *, unstable: bool) -> None:
    assert is_unstable(str(dev / name)) is unstable


def test_the_name_that_can_lead_elsewhere_yields_whichever_reader_is_first(dev: Path) -> None:
    (dev / "ttyUSB1").touch()
    shared = reader("A", link(dev / "serial/by-id/usb-twin", dev / "ttyUSB1"))
    socket = reader("B", link(dev / "serial/by-path/usb-1", dev / "ttyUSB1"))
    number = reader("C", str(dev / "ttyUSB1"))
    claim(dev, "serial/by-id/usb-twin", "c188:0", "c188:1")
    readers = (number, shared, socket)

    assert [rival_of(one, readers) for one in readers] == [socket, socket, None]
    assert rival_of(shared, (shared, number)) is None
    assert rival_of(reader("D", str(dev / "ttyUSB7")), readers) is None
