"""Finds OSDP readers on a port: at which speed and address one answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from agent.errors import LineSettingsError
from agent.readers.detect.match import PLAIN, LineForm
from agent.readers.detect.osdp_session import Contact, OsdpSession
from agent.readers.detect.scan import SerialLine
from agent.readers.protocols.osdp.codes import BROADCAST, HIGHEST_ADDRESS, Command
from agent.readers.protocols.osdp.frame import FrameBuffer, finished, unsigned_command
from agent.readers.protocols.osdp.line import REPLY_WAIT_S

# Those of the standard, the most common first.
OSDP_SPEEDS = (9600, 38400, 115200, 19200, 57600, 230400)
_FACTORY_ADDRESSES = (0, 1)  # of readers that do not answer the broadcast address
_REPLY_BIT = 0x80
_BITS_PER_BYTE = 10


class OsdpReader(NamedTuple):
    """A reader that answers."""

    baudrate: int
    address: int
    contact: Contact


def osdp_readers(
    open_line: Callable[[int, LineForm], SerialLine],
    speeds: Sequence[int],
    *,
    monotonic_s: Callable[[], float],
    trying: Callable[[str], None],
) -> list[OsdpReader]:
    """The readers at the first of these speeds at which one answers: less than 40 s, 5 s if none does.

    Each speed is tried with the broadcast address and those of the factories; where something answers, every
    address is asked, until the only reader of the line is found. `trying` is called with what is done.
    Raises PortError, PortBusyError or NotPermittedError.
    """
    for baudrate in speeds:
        trying(f"OSDP at {baudrate} baud")
        try:
            line = open_line(baudrate, PLAIN)
        except LineSettingsError:
            continue  # the driver does not have this speed
        with closing(line):
            probe = _Probe(line, baudrate, monotonic_s)
            is_heard, is_alone = probe.broadcast()
            if is_heard:
                trying(f"OSDP at {baudrate} baud, every address")
            addresses = range(HIGHEST_ADDRESS + 1) if is_heard else _FACTORY_ADDRESSES
            found = [
                OsdpReader(baudrate, address, probe.contact(address))
                for address in _answering(probe, addresses, only_one=is_alone)
            ]
        if found:
            return found
    return []


def _answering(probe: _Probe, addresses: Sequence[int], *, only_one: bool) -> Iterator[int]:
    for address in addresses:
        if probe.ask(address):
            yield address
            if only_one:
                return


class _Probe:
    """Asks with POLL: some readers answer nothing else before it."""

    def __init__(self, line: SerialLine, baudrate: int, monotonic_s: Callable[[], float]) -> None:
        self._line = line
        self._baudrate = baudrate
        self._byte_s = _BITS_PER_BYTE / baudrate
        self._monotonic_s = monotonic_s

    def ask(self, address: int) -> bool:
        """Whether this address answers."""
        buffer = FrameBuffer()
        for data in self._received_after(finished(unsigned_command(address, 0, Command.POLL))):
            if any(frame.address == address | _REPLY_BIT for frame in buffer.feed(data)):
                return True
        return False

    def contact(self, address: int) -> Contact:
        """What comes of a session in clear text with this address."""
        session = OsdpSession(self._line, self._baudrate, address, None, monotonic_s=self._monotonic_s)
        return session.connect()

    def broadcast(self) -> tuple[bool, bool]:
        """Whether anything answers, and whether it is one reader: replies of several damage each other."""
        command = finished(unsigned_command(BROADCAST, 0, Command.POLL))
        data = b"".join(self._received_after(command)).replace(command, b"")  # some adapters echo
        buffer = FrameBuffer()
        frames = [*buffer.feed(data), *buffer.flush()]
        return bool(data), len(frames) == 1 and not buffer.damaged

    def _received_after(self, command: bytes) -> Iterator[bytes]:
        self._line.write(command)
        now = self._monotonic_s()
        ends_s = now + len(command) * self._byte_s + REPLY_WAIT_S
        while now < ends_s:
            yield self._line.read(ends_s - now)
            now = self._monotonic_s()
