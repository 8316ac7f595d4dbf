"""The agent on an emulated Cortex-A53, the processor of a Pi Zero 2 W: its figures.

Run it with: make test-machine ARCH=arm64
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from bench.figures import percentile
from tests.support.machine import wait_until
from tests.support.whole_machine import HANGS_S, WholeDoor

Report = Callable[[str], None]

_PORT = "/dev/serial/by-id/usb-QEMU_QEMU_USB_SERIAL_A10K0001-if00-port0"
_WATCH = Path(__file__).parents[1] / "support" / "guest_durable_times.py"
_SINGLE_SWIPES = 40
_PER_SECOND, _SECONDS = 100, 60


def test_it_is_installed_and_reads_a_card(door: WholeDoor, package: Path, report: Report) -> None:
    door.machine.hardware.plug_in("a", usb_socket=1, serial="A10K0001")
    door.install(package)
    assert door.machine.exit_code("test", "-e", "/dev/badge-reader/1-1-if00") == 0  # plugged in before
    door.register(door.set_up([f"id=RDR-A,zone=ZONE-A,direction=ENTRY,protocol=rdm6300,port={_PORT}"]))
    door.machine.serve_time()
    door.wait_until_open("RDR-A")

    door.present("a")

    door.assert_delivered()
    kernel = door.machine.run("uname", "-srm").strip()
    report(f"{kernel}; booted in {door.booted_s:.0f} s")


def test_start_to_ready(door: WholeDoor, report: Report) -> None:
    took_s = []
    for _ in range(3):
        door.machine.run("systemctl", "restart", "badge-agent")
        times = door.machine.service("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        took_s.append(
            (int(times["ActiveEnterTimestampMonotonic"]) - int(times["ExecMainStartTimestampMonotonic"]))
            / 1e6
        )
    door.wait_until_open("RDR-A")

    report(f"start to READY: {', '.join(f'{s:.1f}' for s in took_s)} s")


def test_swipe_to_durable(door: WholeDoor, report: Report) -> None:
    door.machine.put("/root/durable_times.py", _WATCH.read_bytes())
    door.machine.run(
        *("systemd-run", "--unit=watch", "--property=StandardOutput=file:/root/durable_times"),
        *("python3", "/root/durable_times.py", str(_SINGLE_SWIPES)),
    )
    wait_until(lambda: _watched(door).startswith("watching"), "it watches", HANGS_S)

    door.present("a", _SINGLE_SWIPES, per_second=2.0)

    wait_until(lambda: len(_watched(door).split()) > _SINGLE_SWIPES, "all are on the disk", HANGS_S)
    took_ms = [float(word) for word in _watched(door).split()[1:]]
    report(f"read to durable: p50 {percentile(took_ms, 50):.0f} ms, p99 {percentile(took_ms, 99):.0f} ms")


def test_a_hundred_swipes_a_second_for_a_minute(door: WholeDoor, report: Report) -> None:
    begun = time.monotonic()

    door.present("a", _PER_SECOND * _SECONDS, per_second=_PER_SECOND)

    presented_s = time.monotonic() - begun
    door.assert_delivered()
    delivered_s = time.monotonic() - begun
    memory = re.findall(r"VmHWM:\s+(\d+)", door.machine.run("cat", f"/proc/{door.pid()}/status"))[0]
    report(
        f"{_PER_SECOND * _SECONDS} presented in {presented_s:.0f} s, delivered in order after "
        f"{delivered_s:.0f} s; at most {int(memory) / 1024:.0f} MB of memory"
    )


def _watched(door: WholeDoor) -> str:
    return door.machine.run("cat", "/root/durable_times", check=False)
