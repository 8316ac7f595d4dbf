"""OSDP readers and their line in simulated time: what the agent's side does in a day takes seconds."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from agent.readers.events import Condition, ConditionChange, Key, RawCredential, ReaderEvent
from agent.readers.protocols.osdp.line import OsdpLine
from agent.readers.protocols.osdp.reader import Osdp
from tests.support.osdp_device import OsdpDevice

KEY = bytes.fromhex("4b8f1d02c7739ae6055e21b4d8f06c93")
_DEVICE_S = 0.003  # a reader's pause before its reply

Fault = Callable[[bytes], Sequence[bytes]]
"""What arrives of the bytes of one frame: nothing, the same, twice ..."""


def intact(data: bytes) -> Sequence[bytes]:
    return (data,)


@dataclass
class SimulatedReader:
    """One reader's protocol and its device."""

    protocol: Osdp
    device: OsdpDevice
    events: list[tuple[float, ReaderEvent]] = field(default_factory=list)

    @property
    def cards(self) -> list[int]:
        return [event.value for _, event in self.events if isinstance(event, RawCredential)]

    @property
    def keys(self) -> int:
        return sum(isinstance(event, Key) for _, event in self.events)

    def changes(self, condition: Condition) -> list[bool]:
        return [
            event.active
            for _, event in self.events
            if isinstance(event, ConditionChange) and event.condition is condition
        ]

    def time_of(self, condition: Condition, *, active: bool) -> float:
        """When the condition last changed to this."""
        return next(
            at for at, event in reversed(self.events) if event == ConditionChange(condition, active=active)
        )


def simulated(address: int = 1, *, key: bytes | None = KEY, **options: object) -> SimulatedReader:
    """A reader with this key at both ends, or in clear text."""
    seed = random.Random(address)  # noqa: S311 - a test that can be repeated
    secure = "none" if key is None else "required"
    protocol = Osdp(address, secure, random=seed.randbytes, **options)  # type: ignore[arg-type]
    if key is not None:
        protocol.use_key(key)
    return SimulatedReader(protocol, OsdpDevice(address, key=key, random=seed.randbytes(8)))


class SimulatedLine:
    """Readers on one line. `to_device` and `to_panel` are applied to each frame."""

    def __init__(self, *readers: SimulatedReader, baudrate: int = 9600) -> None:
        self.readers = readers
        self.now = 0.0
        self.commands = 0
        self.to_device: Fault = intact
        self.to_panel: Fault = intact
        self._byte_s = 10 / baudrate
        self._arriving: list[tuple[float, bytes]] = []
        line = OsdpLine(baudrate)
        for reader in readers:
            reader.protocol.join(line)
            reader.protocol.reset()

    def run(self, seconds: float) -> None:
        ends = self.now + seconds
        while self.now < ends:
            for reader in self.readers:
                if command := reader.protocol.data_to_send(self.now):
                    self._send(command)
            times = [reader.protocol.next_timeout() for reader in self.readers]
            timeout = min((time for time in times if time is not None), default=ends)
            arrives = self._arriving[0][0] if self._arriving else ends
            before, self.now = self.now, max(self.now, min(timeout, arrives, ends))
            data = self._arriving.pop(0)[1] if self._arriving and arrives <= self.now else b""
            for reader in self.readers:
                protocol = reader.protocol
                events = protocol.receive_data(data, self.now) if data else protocol.handle_timeout(self.now)
                reader.events += [(self.now, event) for event in events]
            assert data or self.now > before or self.commands, "time does not pass"

    def _send(self, command: bytes) -> None:
        self.commands += 1
        received_s = self.now + len(command) * self._byte_s
        for copy in self.to_device(command):
            for reader in self.readers:
                if reply := reader.device.reply(copy):
                    for arriving in self.to_panel(reply):
                        received_s += _DEVICE_S + len(reply) * self._byte_s
                        self._arriving.append((received_s, arriving))
        self._arriving.sort(key=lambda one: one[0])
