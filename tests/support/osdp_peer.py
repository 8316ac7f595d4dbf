"""libosdp's readers on a pseudo-terminal, in a process of their own, which can be killed and started again.

Standard input has one JSON object a line: an event for a reader, or a fault of the line. Standard output
has the commands that readers were given, and `ready` first. Arguments: the descriptor of the line, then
ADDRESS=KEY for each reader, the key in hex or empty for install mode.
"""

from __future__ import annotations

import json
import os
import select
import sys
import time
from typing import Any

import osdp

_SILENCE_S = 0.02  # what is incomplete after it is passed on as it is
_TICK_S = 0.005
_CAPABILITIES = [
    (osdp.Capability.OutputControl, 1, 1),
    (osdp.Capability.LEDControl, 4, 1),
    (osdp.Capability.AudibleControl, 2, 1),
    (osdp.Capability.ContactStatusMonitoring, 1, 2),
    (osdp.Capability.CardDataFormat, 1, 0),
    (osdp.Capability.Readers, 1, 1),
]


class Hub:
    """The line: what the panel sends is heard by all readers, one whole frame at a time."""

    def __init__(self, line: int) -> None:
        self.line = line
        self.channels: list[Channel] = []
        self.lose = self.double = 0  # how many replies
        self._held, self._heard_s = b"", 0.0

    def receive(self) -> list[bytes]:
        if select.select([self.line], [], [], _TICK_S)[0]:
            self._held += os.read(self.line, 4096)
            self._heard_s = time.monotonic()
        frames = []
        while frame := self._frame():
            frames.append(frame)
        return frames

    def _frame(self) -> bytes:
        self._held = self._held[self._held.find(b"\x53") :] if b"\x53" in self._held else b""
        length = int.from_bytes(self._held[2:4], "little") if len(self._held) > 4 else 1 << 16
        if len(self._held) < length:
            if not self._held or time.monotonic() - self._heard_s < _SILENCE_S:
                return b""
            length = len(self._held)
        frame, self._held = self._held[:length], self._held[length:]
        return frame

    def send(self, data: bytes) -> None:
        """A reply; libosdp writes a frame as a whole."""
        if self.lose:
            self.lose -= 1
            return
        os.write(self.line, data)
        if self.double:
            self.double -= 1
            os.write(self.line, data)


class Channel(osdp.Channel):  # type: ignore[misc] # without types
    """The line as one reader has it."""

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        self.hub, self.frame = hub, b""

    def read(self, _most: int) -> bytes:
        frame, self.frame = self.frame, b""
        return frame

    def write(self, data: bytes) -> int:
        self.hub.send(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held."""


class Peer:
    """One reader."""

    def __init__(self, hub: Hub, address: int, key: bytes | None) -> None:
        self.address, self.channel = address, Channel(hub)
        info = osdp.PDInfo(
            address,
            self.channel,
            scbk=key,
            flags=[],
            id=osdp.PdId(version=1, model=2, vendor_code=0x3A0B5C, serial_number=7, firmware_version=0x30201),
        )
        self.device = osdp.PeripheralDevice(
            info,
            osdp.PDCapabilities(_CAPABILITIES),
            log_level=osdp.LogLevel.Emergency,
            command_handler=self.command,
        )

    def command(self, command: dict[str, Any]) -> tuple[int, None]:
        shown = {name: value.hex() if isinstance(value, bytes) else value for name, value in command.items()}
        _say({"address": self.address, **shown})
        return 0, None

    def hear(self, frame: bytes) -> None:
        self.channel.frame = frame
        self.device.ctx.refresh()

    def submit(self, order: dict[str, Any]) -> None:
        if "card" in order:
            event = {
                "event": osdp.Event.CardRead,
                "reader_no": 0,
                "format": osdp.CardFormat.Wiegand,
                "direction": 0,
                "length": order["bits"],
                "data": bytes.fromhex(order["card"]),
            }
        elif "keys" in order:
            keys = order["keys"].encode()
            event = {"event": osdp.Event.KeyPress, "reader_no": 0, "data": keys}
        else:
            report = bytes([order["tamper"], 0])
            event = {
                "event": osdp.Event.Status,
                "type": osdp.StatusReportType.Local,
                "report": report,
            }
        self.device.ctx.submit_event(event)


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def main() -> None:
    hub = Hub(int(sys.argv[1]))
    peers = {}
    for argument in sys.argv[2:]:
        address, _, key = argument.partition("=")
        peers[int(address)] = Peer(hub, int(address), bytes.fromhex(key) or None)
    _say("ready")
    orders = b""
    while True:
        for frame in hub.receive():
            for peer in peers.values():
                peer.hear(frame)
        for peer in peers.values():
            peer.hear(b"")
        if select.select([0], [], [], 0)[0]:
            if not (more := os.read(0, 65536)):
                return
            orders += more
        while b"\n" in orders:
            line, _, orders = orders.partition(b"\n")
            order = json.loads(line)
            hub.lose += order.get("lose", 0)
            hub.double += order.get("double", 0)
            if "address" in order:
                peers[order["address"]].submit(order)


if __name__ == "__main__":
    main()
