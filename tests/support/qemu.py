"""qemu as the hardware of a machine: its power, its USB sockets, its network cable."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.machine_image import Image

_GATE = "10.0.2.100"
_TO_NET = Path(__file__).with_name("to_net.py")
_SOCKET_S = 60.0
_MEMORY_MB = 512

# The RAM of a Pi Zero 2 W and its cores, as far as `virt` has them.
_MACHINES: Mapping[str, tuple[str, ...]] = {
    "amd64": ("qemu-system-x86_64", "-M", "q35,smbus=off", "-cpu", "max", "-smp", "1"),
    "arm64": ("qemu-system-aarch64", "-M", "virt,gic-version=3", "-cpu", "cortex-a53", "-smp", "2"),
}
# Nothing that costs an emulated processor seconds and is of no interest here.
_BOOT_OPTIONS = "quiet loglevel=4 systemd.show_status=0 mitigations=off module_blacklist=kvm,kvm_amd,ccp"
_CONSOLES: Mapping[str, str] = {"amd64": "ttyS0", "arm64": "ttyAMA0"}


class Qemu:
    """One machine on a copy-on-write disk, which outlives power cuts. Its files are in `directory`.

    The guest reaches one port of this machine's loopback, at `GATE` under the same number.
    """

    GATE = _GATE

    def __init__(self, image: Image, arch: str, directory: Path, host_port: int) -> None:
        self._image, self._arch, self._port = image, arch, host_port
        # Paths of sockets are short: 108 bytes.
        self._directory = directory
        self._disk = directory / "disk.qcow2"
        self.console = directory / "console"
        self._process: subprocess.Popen[bytes] | None = None
        self._control: _Control | None = None
        self._readers: dict[str, socket.socket] = {}
        directory.mkdir(parents=True)
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(image.disk), "-F", "raw", str(self._disk))

    # --- power ----------------------------------------------------------------------------------

    def power_on(self, rtc: str) -> None:
        """Start it. `rtc` is the time of its battery-backed clock: `utc`, or a date and time."""
        for path in self._directory.glob("*.sock"):
            path.unlink()
        log = self._directory / "qemu.log"
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._words(rtc),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._control = _Control(self._connected("qmp"))

    def cut_power(self) -> None:
        """End it without notice to the guest; what the guest had not written is gone."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            process.wait(timeout=_SOCKET_S)
        self._close()

    def _close(self) -> None:
        for end in (*self._readers.values(), *([self._control.socket] if self._control else [])):
            end.close()
        self._readers.clear()
        self._control = None

    # --- hardware -------------------------------------------------------------------------------

    def shell(self) -> socket.socket:
        """The connection to the shell of the guest."""
        return self._connected("shell")

    def plug_in(self, name: str, *, usb_socket: int, serial: str) -> None:
        """Plug in a serial adapter (FTDI, 0403:6001); an empty `serial` makes one without a number."""
        control = self._running()
        if name not in self._readers:
            path = str(self._directory / f"{name}.sock")
            backend = {
                "type": "socket",
                "data": {"addr": {"type": "unix", "data": {"path": path}}, "server": True, "wait": False},
            }
            control.command("chardev-add", id=f"line-{name}", backend=backend)
            self._readers[name] = self._connected(name)
        control.command(
            "device_add",
            driver="usb-serial",
            id=name,
            chardev=f"line-{name}",
            bus="xhci.0",
            port=str(usb_socket),
            serial=serial,
        )

    def unplug(self, name: str) -> None:
        """Pull out an adapter; returns when it is gone."""
        control = self._running()
        control.command("device_del", id=name)
        control.wait_for("DEVICE_DELETED", name)

    def send(self, name: str, data: bytes) -> None:
        """Bytes from the reader at an adapter."""
        self._readers[name].sendall(data)

    def cable(self, *, is_in: bool) -> None:
        """Pull out the network cable, or plug it in."""
        self._running().command("set_link", name="nic", up=is_in)

    # --- inside ---------------------------------------------------------------------------------

    def _running(self) -> _Control:
        assert self._control is not None, "the machine is off"
        return self._control

    def _connected(self, name: str) -> socket.socket:
        path = self._directory / f"{name}.sock"
        deadline = time.monotonic() + _SOCKET_S
        while True:
            end = socket.socket(socket.AF_UNIX)
            try:
                end.connect(str(path))
            except OSError:
                end.close()
                assert self._process is not None
                assert self._process.poll() is None, (self._directory / "qemu.log").read_text()
                assert time.monotonic() < deadline, f"qemu does not listen at {path}"
                time.sleep(0.05)
            else:
                return end

    def _words(self, rtc: str) -> list[str]:
        directory = self._directory
        to_net = f"{sys.executable} {_TO_NET} 127.0.0.1 {self._port}"
        gate = f"tcp:{_GATE}:{self._port}-cmd:{to_net}"
        return [
            # It ends with the process that started it, also if that is killed.
            *("setpriv", "--pdeathsig", "KILL", *_MACHINES[self._arch]),
            # /dev/kvm may exist and not work within another machine.
            *("-accel", "tcg,thread=multi", "-m", str(_MEMORY_MB), "-nodefaults", "-no-reboot"),
            *("-display", "none", "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd)),
            *(
                "-append",
                f"root=/dev/vda rw console={_CONSOLES[self._arch]} {_BOOT_OPTIONS}",
            ),
            *("-rtc", f"base={rtc},clock=host"),
            *(
                "-drive",
                f"file={self._disk},if=none,id=hd,cache=writeback",
                "-device",
                "virtio-blk-pci,drive=hd",
            ),
            *("-device", "qemu-xhci,id=xhci,p2=8,p3=0,addr=5"),
            *("-netdev", f"user,id=net,restrict=on,guestfwd={gate}"),
            *("-device", "virtio-net-pci,netdev=net,id=nic,romfile=", "-device", "virtio-rng-pci"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=shell,name=door.shell"),
            *("-chardev", f"socket,id=shell,path={directory}/shell.sock,server=on,wait=off"),
            *("-qmp", f"unix:{directory}/qmp.sock,server=on,wait=off"),
            *("-chardev", f"file,id=console,path={self.console},append=on", "-serial", "chardev:console"),
        ]


class _Control:
    """qemu's monitor protocol (QMP): a command, its answer, and events between them."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        end.settimeout(_SOCKET_S)
        self._lines = end.makefile("rb")
        self._events: list[dict[str, Any]] = []
        self._read()
        self.command("qmp_capabilities")

    def command(self, execute: str, **arguments: object) -> None:
        """Send a command; returns when it is done."""
        self.socket.sendall(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
        while True:
            answer = self._read()
            if "event" in answer:
                self._events.append(answer)
                continue
            assert "return" in answer, f"{execute}: {answer}"
            return

    def wait_for(self, event: str, device: str) -> None:
        """Return when an event of a device has come."""
        while not any(
            seen["event"] == event and seen["data"].get("device") == device for seen in self._events
        ):
            answer = self._read()
            if "event" in answer:
                self._events.append(answer)
        self._events.clear()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        assert line, "qemu ended"
        read: dict[str, Any] = json.loads(line)
        return read


def _run(*words: str) -> None:
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
