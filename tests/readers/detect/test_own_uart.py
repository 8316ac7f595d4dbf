"""The Raspberry Pi's own UART: who else uses it."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.readers import port_names
from agent.readers.detect import own_uart
from agent.readers.detect.own_uart import users_of


@pytest.fixture
def pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/dev of a Pi 3: the alias serial0 is the mini UART, Bluetooth has the PL011."""
    (tmp_path / "dev").mkdir()
    for name in ("ttyS0", "ttyAMA0", "ttyUSB0"):
        (tmp_path / "dev" / name).touch()
    (tmp_path / "dev" / "serial0").symlink_to("ttyS0")
    (tmp_path / "dev" / "serial1").symlink_to("ttyAMA0")
    (tmp_path / "units").mkdir()
    (tmp_path / "cmdline").write_text("console=tty1 root=PARTUUID=1 rootwait\n")
    monkeypatch.setattr(port_names, "DEV", tmp_path / "dev")
    monkeypatch.setattr(own_uart, "COMMAND_LINE", tmp_path / "cmdline")
    monkeypatch.setattr(own_uart, "UNITS", (tmp_path / "units",))
    return tmp_path


def run_login(pi: Path, name: str) -> None:
    """The control group of a login that runs."""
    group = pi / "units" / f"serial-getty@{name}.service"
    group.mkdir()
    (group / "cgroup.procs").write_text("4711\n")


def texts(pi: Path, name: str) -> str:
    return " | ".join(f"{user.text} -> {user.next}" for user in users_of(str(pi / "dev" / name)))


@pytest.mark.parametrize("console", ["serial0,115200", "ttyS0,115200"])
@pytest.mark.parametrize("port", ["serial0", "ttyS0"])
def test_the_kernels_console_on_the_port_is_found_under_both_names(pi: Path, console: str, port: str) -> None:
    (pi / "cmdline").write_text(f"console={console} console=tty1 rootwait\n")

    assert "the kernel's console is on this port" in texts(pi, port)


def test_a_console_on_the_other_uart_is_none_of_this_one(pi: Path) -> None:
    (pi / "cmdline").write_text("console=ttyAMA0,115200\n")

    assert "console" not in texts(pi, "serial0")


def test_a_login_on_the_port_is_found_with_the_command_that_ends_it(pi: Path) -> None:
    run_login(pi, "ttyS0")

    assert "sudo systemctl mask --now serial-getty@ttyS0.service" in texts(pi, "serial0")


def test_bluetooth_on_the_good_uart_is_found(pi: Path) -> None:
    assert "dtoverlay=disable-bt" in texts(pi, "serial0")
    assert "Bluetooth" not in texts(pi, "ttyAMA0")


def test_a_usb_adapter_is_not_the_machines_own_uart(pi: Path) -> None:
    (pi / "cmdline").write_text("console=serial0,115200\n")

    assert texts(pi, "ttyUSB0") == ""


def test_a_login_on_a_usb_adapter_is_found_too(pi: Path) -> None:
    run_login(pi, "ttyUSB0")

    assert texts(pi, "ttyUSB0") == (
        "a login (serial-getty@ttyUSB0) is on this port and takes the reader's bytes"
        " -> sudo systemctl mask --now serial-getty@ttyUSB0.service"
    )
