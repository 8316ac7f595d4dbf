"""What the kernel offers for a UART beyond termios: its error counters, and RS-485 (linux/serial.h)."""

from __future__ import annotations

import fcntl
import struct
from typing import NamedTuple

_TIOCGICOUNT = 0x545D
# struct serial_icounter_struct: six other counters, then frame, overrun, parity, brk, buf_overrun, and nine
# reserved.
_ICOUNTER = struct.Struct("=24x5I36x")
_COUNTER_MASK = 0xFFFF_FFFF  # the counters are ints that wrap

_TIOCSRS485 = 0x542F
# struct serial_rs485: flags, delay before sending, delay after sending, padding.
_RS485 = struct.Struct("=8I")
_RS485_ENABLED, _RS485_RTS_ON_SEND = 1, 2


class LineErrors(NamedTuple):
    """Numbers of bytes that were damaged or lost on the way into the kernel's buffer."""

    overrun: int = 0  # lost: a full FIFO of the UART, or a full buffer of the driver
    framing: int = 0  # no stop bit where one was due, breaks included
    parity: int = 0

    def since(self, earlier: LineErrors) -> LineErrors:
        """The errors counted after `earlier`."""
        return LineErrors(
            overrun=self.overrun - earlier.overrun & _COUNTER_MASK,
            framing=self.framing - earlier.framing & _COUNTER_MASK,
            parity=self.parity - earlier.parity & _COUNTER_MASK,
        )

    def and_also(self, more: LineErrors) -> LineErrors:
        """The sum of two numbers of errors."""
        return LineErrors(*(one + other for one, other in zip(self, more, strict=True)))

    def __str__(self) -> str:
        """As `3 framing errors, 1 overrun error`; empty for none."""
        named = zip(("overrun", "framing", "parity"), self, strict=True)
        return ", ".join(f"{count} {name} error{'' if count == 1 else 's'}" for name, count in named if count)


def line_errors(fd: int) -> LineErrors | None:
    """The errors since the driver was loaded; None where it has no counters, as that of some USB adapters."""
    counters = bytearray(_ICOUNTER.size)
    try:
        fcntl.ioctl(fd, _TIOCGICOUNT, counters)
    except OSError:
        return None
    frame, overrun, parity, breaks, buf_overrun = _ICOUNTER.unpack(counters)
    return LineErrors(
        overrun=overrun + buf_overrun & _COUNTER_MASK, framing=frame + breaks & _COUNTER_MASK, parity=parity
    )


def enable_rs485(fd: int) -> None:
    """Let the driver set RTS while it sends, for the direction of an RS-485 transceiver.

    Raises OSError where the driver has no RS-485 mode.
    """
    fcntl.ioctl(fd, _TIOCSRS485, _RS485.pack(_RS485_ENABLED | _RS485_RTS_ON_SEND, *[0] * 7))
