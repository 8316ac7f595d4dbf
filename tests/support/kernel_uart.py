"""The kernel's answers for a UART, which a pseudo-terminal has none of: error counters and RS-485."""

from __future__ import annotations

import struct

TIOCGICOUNT, TIOCSRS485 = 0x545D, 0x542F
# The order of linux/serial.h.
COUNTERS = ("cts", "dsr", "rng", "dcd", "rx", "tx", "frame", "overrun", "parity", "brk", "buf_overrun")


class KernelUart:
    """Stands in for the module fcntl in agent.readers.uart: the ioctls of a driver that has them."""

    def __init__(self) -> None:
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.rs485 = b""

    def ioctl(self, _fd: int, request: int, argument: bytearray | bytes) -> int:
        if request == TIOCGICOUNT:
            assert isinstance(argument, bytearray)
            argument[:] = struct.pack("20i", *self.counters.values(), *[0] * 9)
        else:
            assert request == TIOCSRS485
            self.rs485 = bytes(argument)
        return 0
