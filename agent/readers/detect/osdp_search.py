"""Finds OSDP readers on a port: at which speed and address one answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from agent.readers.detect.match import PLAIN, LineForm
from agent.readers.detect.scan import SerialLine
from agent.readers.osdp_session import Contact, OsdpSession
from agent.readers.protocols.osdp.codes import BROADCAST, HIGHEST_ADDRESS, Command
from agent.readers.protocols.osdp.frame import Frame, FrameBuffer, finished, unsigned_command
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
        with closing(open_line(baudrate, PLAIN)) as line:
            probe = _Probe(line, baudrate, monotonic_s)
            is_alone = probe.ask(BROADCAST) is not None
            heard = is_alone or probe.heard
            addresses: Sequence[int] = range(HIGHEST_ADDRESS + 1) if heard else _FACTORY_ADDRESSES
            if heard:
                trying(f"OSDP at {baudrate} baud, every address")
            found = list(_answering(probe, addresses, only_one=is_alone))
            if found:
                return [
                    OsdpReader(
                        baudrate,
                        address,
                        OsdpSession(line, baudrate, address, None, monotonic_s=monotonic_s).connect(),
                    )
                    for address in found
                ]
    return []


def _answering(probe: _Probe, addresses: Sequence[int], *, only_one: bool) -> Iterator[int]:
    for address in addresses:
        if probe.ask(address) is not None:
            yield address
            if only_one:
                return


class _Probe:
    """Asks with POLL: some readers answer nothing else before it."""

    def __init__(self, line: SerialLine, baudrate: int, monotonic_s: Callable[[], float]) -> None:
        self.heard = False  # anything: the replies of several readers destroy each other
        self._line = line
        self._byte_s = _BITS_PER_BYTE / baudrate
        self._monotonic_s = monotonic_s

    def ask(self, address: int) -> Frame | None:
        """The reply of this address; None without one."""
        command = finished(unsigned_command(address, 0, Command.POLL))
        self._line.write(command)
        now = self._monotonic_s()
        ends_s = now + len(command) * self._byte_s + REPLY_WAIT_S
        buffer = FrameBuffer()
        while now < ends_s:
            data = self._line.read(ends_s - now)
            now = self._monotonic_s()
            self.heard |= bool(data.replace(command, b""))  # some adapters echo
            for frame in buffer.feed(data):
                if frame.address == address | _REPLY_BIT:
                    return frame
        return None
