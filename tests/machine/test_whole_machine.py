"""The package on a Debian with its own kernel, USB sockets, clock and disk, from installation to purge.

Run it with: make test-machine
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.agent_process import assert_in_order_and_whole, has_clock, sent_rows
from tests.support.machine import wait_until
from tests.support.package import earlier, newer
from tests.support.whole_machine import HANGS_S, WholeDoor

Report = Callable[[str], None]

_BY_ID = "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_{}-if00-port0"
_BY_PATH = "/dev/serial/by-path/pci-0000:00:05.0-usb-0:{}:1.0-port0"
# Two adapters with a serial number, known by it; two without, known by their USB sockets.
PORTS = {
    "RDR-A": _BY_ID.format("A10K0001"),
    "RDR-B": _BY_ID.format("A10K0002"),
    "RDR-C": "/dev/badge-reader/1-3-if00",
    "RDR-D": _BY_PATH.format(4),
}
_CGROUP = "/sys/fs/cgroup/system.slice/badge-agent.service/cgroup.procs"
_LATE_S = 10.0  # of a busy host; a clock that was not corrected is wrong by months


def test_dpkg_installs_it_without_a_network(
    door: WholeDoor, package: Path, report: Report, tmp_path: Path
) -> None:
    printed = door.install(earlier(package, tmp_path))

    assert "error" not in printed.lower()
    assert door.machine.service("ActiveState", "UnitFileState") == {
        "ActiveState": "inactive",
        "UnitFileState": "disabled",
    }
    report(f"{door.machine.run('uname', '-sr').strip()}, booted in {door.booted_s:.0f} s")


def test_it_is_set_up_before_a_reader_is_plugged_in(door: WholeDoor, report: Report) -> None:
    printed = door.set_up(
        [
            f"id={reader},zone=ZONE-{reader[-1]},direction=ENTRY,protocol=rdm6300,port={port}"
            for reader, port in PORTS.items()
        ]
    )
    door.register(printed)

    wait_until(
        lambda: door.machine.service("ActiveState")["ActiveState"] == "active", "it is active", HANGS_S
    )
    assert door.open_readers() == set()
    assert "ttyUSB" not in door.machine.run("cat", "/proc/devices")
    report(f"{len(PORTS)} readers, the driver of none is loaded")


def test_a_reader_whose_driver_is_loaded_after_the_start_is_read(door: WholeDoor, report: Report) -> None:
    begun = time.monotonic()

    door.machine.hardware.plug_in("a", usb_socket=1, serial="A10K0001")
    door.wait_until_open("RDR-A")

    took_s = time.monotonic() - begun
    assert "ttyUSB" in door.machine.run("cat", "/proc/devices")
    assert "Operation not permitted" not in door.machine.journal()
    door.present("a", 5)
    door.wait_until_pending(5)
    report(f"open {took_s:.1f} s after it was plugged in")


def test_of_all_devices_the_service_may_open_serial_ports_only(door: WholeDoor, report: Report) -> None:
    """Root in the cgroup of the service, so that nothing but its device filter refuses."""

    def opened(device: str, *, within: bool) -> bool:
        enter = f"echo $$ >{_CGROUP} && " if within else ""
        code, output = door.machine.execute("sh", "-c", f"{enter}exec 3<{device}", timeout_s=60)
        assert code == 0 or "Operation not permitted" in output, output
        return code == 0

    foreign = ("/dev/vda", "/dev/kmsg", "/dev/hwrng", "/dev/input/event0")

    for device in foreign:
        assert opened(device, within=False)
        assert not opened(device, within=True)
    for device in ("/dev/ttyUSB0", "/dev/ttyS0", "/dev/null"):
        assert opened(device, within=True)
    report(f"refused: {', '.join(foreign)}")


def test_swipes_before_a_time_server_answers_get_their_right_time(door: WholeDoor, report: Report) -> None:
    door.machine.serve_time()

    rows = door.assert_delivered()

    assert all(has_clock(row, "corrected") for row in rows)
    report(f"{len(rows)} rows, at most {_worst_s(door, rows):.2f} s from the host's time")


def test_names_of_the_ports(door: WholeDoor, report: Report) -> None:
    door.machine.hardware.plug_in("b", usb_socket=2, serial="A10K0002")
    door.machine.hardware.plug_in("c", usb_socket=3, serial="")
    door.machine.hardware.plug_in("d", usb_socket=4, serial="")

    door.wait_until_open(*PORTS)

    named = {name: door.machine.run("readlink", "-f", port).strip() for name, port in PORTS.items()}
    assert sorted(named.values()) == [f"/dev/ttyUSB{number}" for number in range(4)]
    rows = _one_swipe_each(door, {"a": "RDR-A", "b": "RDR-B", "c": "RDR-C", "d": "RDR-D"})
    assert all(has_clock(row, "synced") for row in rows)
    report(f"by-id, by-path, badge-reader; at most {_worst_s(door, rows):.2f} s from the host's time")


def test_a_reader_that_was_unplugged_is_read_again_under_another_number(
    door: WholeDoor, report: Report
) -> None:
    port = door.machine.run("readlink", "-f", PORTS["RDR-A"]).strip()
    # The kernel uses a number again only when nothing has the device open. It hangs up on the holder.
    hold = f"trap '' HUP; exec 3<>{port}; touch /run/held; exec sleep 3600"
    door.machine.run("systemd-run", "--unit=holder", "sh", "-c", hold)
    door.machine.run("sh", "-c", "until test -e /run/held; do sleep 0.1; done")

    door.machine.hardware.unplug("a")
    wait_until(lambda: "RDR-A" not in door.open_readers(), "the agent has seen it", HANGS_S)
    begun = time.monotonic()
    door.machine.hardware.plug_in("a", usb_socket=1, serial="A10K0001")
    door.wait_until_open("RDR-A")

    took_s = time.monotonic() - begun
    now = door.machine.run("readlink", "-f", PORTS["RDR-A"]).strip()
    door.machine.run("systemctl", "stop", "holder")
    assert now != port
    _one_swipe_each(door, {"a": "RDR-A"})
    report(f"{Path(port).name}, then {Path(now).name}, open after {took_s:.1f} s")


def test_exchanged_readers_are_known_by_their_number_or_by_their_socket(
    door: WholeDoor, report: Report
) -> None:
    hardware = door.machine.hardware
    for name in "abcd":
        hardware.unplug(name)
    wait_until(lambda: not door.open_readers(), "the agent has seen it", HANGS_S)

    hardware.plug_in("d", usb_socket=3, serial="")
    hardware.plug_in("c", usb_socket=4, serial="")
    hardware.plug_in("b", usb_socket=1, serial="A10K0002")
    hardware.plug_in("a", usb_socket=2, serial="A10K0001")
    door.wait_until_open(*PORTS)

    _one_swipe_each(door, {"a": "RDR-A", "b": "RDR-B", "d": "RDR-C", "c": "RDR-D"})
    report("A and B by number, C and D by socket; plugged in in reverse order")


def test_a_pulled_network_cable_delays_delivery_only(door: WholeDoor, report: Report) -> None:
    door.wait_until_pending(0)  # rows are in the table before the agent has read that they are
    # The connection to the host's port is within qemu; its device in the guest loses the carrier.
    door.machine.hardware.cable(is_in=False)
    door.present("a", 20)
    door.wait_until_pending(20)

    door.machine.hardware.cable(is_in=True)

    door.assert_delivered()
    report("20 swipes meanwhile")


def test_an_upgrade_with_swipes_under_way_loses_nothing(
    door: WholeDoor, package: Path, report: Report, tmp_path: Path
) -> None:
    before, first, done = door.pid(), len(door.tags), threading.Event()

    def swipe_on() -> None:
        while not done.wait(0.2):
            door.present("a")

    swiping = threading.Thread(target=swipe_on)
    swiping.start()
    try:
        door.install(newer(package, tmp_path))
        wait_until(lambda: door.pid() not in {0, before}, "the new version runs", HANGS_S)
        door.wait_until_open(*PORTS)
    finally:
        done.set()
        swiping.join()

    door.assert_delivered()
    version = door.machine.run("dpkg-query", "--show", "--showformat=${Version}", "badge-agent")
    assert door.status()["version"] == version
    report(f"{len(door.tags) - first} swipes in all phases of it; now {version}")


def test_a_power_cut_with_swipes_under_way_keeps_what_was_durable(door: WholeDoor, report: Report) -> None:
    door.cut_network()
    before, cut = len(door.tags), threading.Event()

    def swipe_on() -> None:
        with suppress(OSError, KeyError):  # the machine is off
            while not cut.is_set():
                door.present("a", 5, per_second=10.0)  # fewer than a flood, of which a short disk takes none

    swiping = threading.Thread(target=swipe_on)
    swiping.start()
    try:
        wait_until(lambda: door.status()["outbox"]["pending"] >= 40, "40 swipes are stored", HANGS_S)
        durable = door.status()["outbox"]["pending"]
        door.machine.cut_power()
    finally:
        cut.set()
        swiping.join()
    presented = len(door.tags) - before
    took_s = door.machine.boot("1970-01-01T00:00:00")
    kept = door.status()["outbox"]["pending"]

    # Those after the last stored one were in memory, and none of them counted as stored.
    assert durable <= kept <= presented
    del door.tags[before + kept :]
    _plug_in_all(door)
    report(
        f"{presented} presented, {durable} reported as stored, {kept} on the disk; booted in {took_s:.0f} s"
    )


def test_a_clock_of_1970_that_is_set_later_makes_no_wrong_time(door: WholeDoor, report: Report) -> None:
    """The battery-backed clock is that of 1970; systemd starts with the last time that it has saved."""
    before = door.status()["outbox"]["pending"]
    first_year = _year(door)
    door.present("a", 3, per_second=1.0)
    door.wait_until_pending(before + 3)
    # The kernel accepts no time that is smaller than its uptime.
    door.machine.run("date", "--set=1970-01-02T00:00:00Z")
    second_year = _year(door)
    door.present("a", 3, per_second=1.0)
    door.wait_until_pending(before + 6)
    door.machine.serve_time()
    door.restore_network()

    rows = door.assert_delivered()[-before - 6 :]

    assert second_year == 1970
    assert all(has_clock(row, "synced") for row in rows[:before])
    assert all(has_clock(row, "corrected") for row in rows[before:])
    report(
        f"{before} rows of before the power cut, 3 with a clock in {first_year}, 3 in 1970; "
        f"at most {_worst_s(door, rows):.2f} s from the host's time"
    )
    _one_swipe_each(door, {"a": "RDR-A"})


def test_purging_leaves_nothing(door: WholeDoor) -> None:
    door.machine.run("dpkg", "--purge", "badge-agent")

    left = door.machine.run(
        *(
            "find",
            "/",
            "-xdev",
            "(",
            "-path",
            "/proc",
            "-o",
            "-path",
            "/var/log",
            "-o",
            "-path",
            "/root",
            ")",
        ),
        *("-prune", "-o", "-name", "*badge-agent*", "-print"),
    )
    assert left == ""
    assert door.machine.exit_code("getent", "passwd", "badge-agent") != 0
    assert door.machine.exit_code("test", "-e", "/dev/badge-reader/1-1") != 0
    assert_in_order_and_whole(sent_rows(door.pipe), door.tags)


def _plug_in_all(door: WholeDoor) -> None:
    for number, (name, serial) in enumerate({"a": "A10K0001", "b": "A10K0002", "c": "", "d": ""}.items(), 1):
        door.machine.hardware.plug_in(name, usb_socket=number, serial=serial)
    door.wait_until_open(*PORTS)


def _one_swipe_each(door: WholeDoor, readers: dict[str, str]) -> list[dict[str, Any]]:
    """Present a tag at each adapter; its row names the reader that is expected. Returns their rows."""
    first = len(door.tags)
    for name in readers:
        door.present(name)
        door.assert_delivered()
    rows = door.assert_delivered()[first:]
    assert [row["reader_id"] for row in rows] == list(readers.values())
    return rows


def _worst_s(door: WholeDoor, rows: list[dict[str, Any]]) -> float:
    """The most that a row's time differs from when the tag was presented, by the host's clock."""
    worst_s = max(
        abs(
            datetime.fromisoformat(row["event_timestamp"]).replace(tzinfo=UTC).timestamp()
            - door.presented_at[int(row["card_raw"], 16)]
        )
        for row in rows
    )
    assert worst_s < _LATE_S
    return worst_s


def _year(door: WholeDoor) -> int:
    return int(door.machine.run("date", "--utc", "+%Y"))
