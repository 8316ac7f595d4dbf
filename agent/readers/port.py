"""A serial port, opened for us alone; the only module that imports pyserial."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import serial

from agent.errors import NotPermittedError, PortBusyError, PortError
from agent.readers.protocol import LineSettings

# More than a whole frame of any protocol, less than what a UART buffers while we are away.
_READ_BYTES = 4096


class FdStore(Protocol):
    """Holds a port open while no agent runs, so that the kernel goes on to collect what the reader sends.

    It is a service manager's: a process takes down what the one before it has put there.
    """

    def take(self) -> int | None:
        """The file descriptor that the last process left, once; the caller closes it."""

    def put(self, fd: int) -> None:
        """Hold a duplicate of this one, instead of any before it."""

    def clear(self) -> None:
        """Hold nothing any more: the device is gone."""


class _Serial(serial.Serial):
    """pyserial's, which throws away what has arrived when it opens a port; this one can be told not to."""

    keeps_input = False

    def _reset_input_buffer(self) -> None:
        if not self.keeps_input:
            super()._reset_input_buffer()  # type: ignore[misc] # no part of its public face


class Port:
    """An open serial port. read() is for one thread; stop() may be called from any other."""

    def __init__(
        self,
        device: str,
        line: LineSettings,
        *,
        held: int | None = None,
        busy: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Open it exclusively. Raises PortBusyError, PortError, or NotPermittedError.

        `held` is a descriptor on which the device has been open meanwhile, and is closed here: what the
        reader sent since is read first. If it leads to another device, it is of no use any more.
        `busy` is told False before every wait for the reader and True after it, and not for more: a
        driver that hangs is not a reader that is silent.
        """
        self.device = device
        self._busy = busy
        # A name under /dev/serial/by-id leads to another device after each replugging.
        self.resolved = os.path.realpath(device)
        try:
            self._open(line, keeps_input=held is not None and _release(held, self.resolved))
        finally:
            # Only now: between two openings the device would lose its input, and some boards reset.
            if held is not None:
                os.close(held)

    def _open(self, line: LineSettings, *, keeps_input: bool) -> None:
        device = self.device
        with _translated(device):
            self._serial = _Serial(
                baudrate=line.baudrate,
                bytesize=line.data_bits,
                parity=line.parity,
                stopbits=line.stop_bits,
                timeout=0,
                exclusive=True,  # flock: keeps out those who lock too
            )
            if line.hold_reset_lines:
                # Before open(), which sets them; that a port has no such lines is no error there.
                self._serial.dtr = self._serial.rts = False
            self._serial.port = self.resolved
            self._serial.keeps_input = keeps_input
            self._serial.open()
        try:
            # TIOCEXCL keeps out those who do not lock; both are needed (only root passes this one).
            fcntl.ioctl(self._serial.fileno(), termios.TIOCEXCL)
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._serial.close()
            raise PortError(f"{device}: {error.strerror}") from error

    def fileno(self) -> int:
        """The descriptor, for an FdStore."""
        return self._serial.fileno()

    def read(self, timeout_s: float | None) -> bytes:
        """Bytes as they came, or b"" after `timeout_s` of silence, or after stop().

        None waits for ever without waking the processor once. Raises PortError when the port is lost.
        """
        return self._read([self._serial.fileno(), self._wake_read], timeout_s)

    def read_rest(self, timeout_s: float) -> bytes:
        """The same after a stop(), which it does not mind: for the rest of a frame that had begun."""
        return self._read([self._serial.fileno()], timeout_s)

    def write(self, data: bytes) -> None:
        """Send, without waiting: a reader that takes no bytes is one that gives none.

        Raises PortError when the port is lost.
        """
        with _translated(self.device), contextlib.suppress(BlockingIOError):
            os.write(self._serial.fileno(), data)

    def stop(self) -> None:
        """Make the read() that waits, and every later one, return at once."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Give the port back. Only the reading thread calls this, after its last read()."""
        with contextlib.suppress(OSError, serial.SerialException, termios.error):
            # It outlives us where an FdStore holds the device open.
            fcntl.ioctl(self._serial.fileno(), termios.TIOCNXCL)
        with contextlib.suppress(OSError, serial.SerialException, termios.error):
            self._serial.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _read(self, waits_for: list[int], timeout_s: float | None) -> bytes:
        with _translated(self.device):
            self._busy(False)
            try:
                readable, _, _ = select.select(waits_for, [], [], timeout_s)
            finally:
                self._busy(True)
            if self._serial.fileno() not in readable:
                return b""
            # pyserial turns "readable, but nothing there" into its error for a vanished device.
            return bytes(self._serial.read(_READ_BYTES))


def leads_to(fd: int, device: str) -> bool:
    """True if this open descriptor is of the very device that now has that name."""
    try:
        its, now = os.fstat(fd), Path(device).stat()
    except OSError:
        return False
    return stat.S_ISCHR(now.st_mode) and (its.st_rdev, its.st_ino) == (now.st_rdev, now.st_ino)


def _release(held: int, resolved: str) -> bool:
    """Let the device be opened again beside this descriptor; False if it is not that device's."""
    try:
        if not leads_to(held, resolved):
            return False
        # Both were set by the agent that opened it, and outlived it with the descriptor.
        fcntl.ioctl(held, termios.TIOCNXCL)
        fcntl.flock(held, fcntl.LOCK_UN)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _translated(device: str) -> Iterator[None]:
    """The edge where the many ways in which a port can fail become one of three."""
    try:
        yield
    except (OSError, termios.error, TypeError, ValueError) as error:  # SerialException is an OSError
        raise _error(device, error) from error


def _error(device: str, error: Exception) -> PortError | NotPermittedError:
    text = str(error)
    number = getattr(error, "errno", None)
    if "exclusively lock" in text or "Device or resource busy" in text:
        holder = holder_of(device)
        by = f"process {holder}" if holder else "another process"
        return PortBusyError(
            f"{device} is held by {by}",
            hint=f"end it, or give it another port: ps -p {holder}" if holder else f"sudo fuser -v {device}",
        )
    if number == errno.EACCES:
        return NotPermittedError(
            f"not permitted to open {device}", hint="sudo usermod -aG dialout $USER, then log in again"
        )
    if number == errno.ENOTTY or "Inappropriate ioctl" in text:
        return PortError(f"{device} is no serial port", hint="the names of those: ls -l /dev/serial/by-id/")
    if number == errno.ENOENT or not Path(device).exists():
        return not_there(device)
    return PortError(f"{device} was lost: {text}", hint="it is opened again as soon as it answers")


def not_there(device: str) -> PortError:
    """The error for a port that does not exist, or not now."""
    return PortError(f"{device} is not there", hint="is the reader plugged in? ls -l /dev/serial/by-id/")


def holder_of(device: str) -> int | None:
    """The pid of another process that has the device open, where /proc lets us see it."""
    try:
        target = Path(device).stat()
    except OSError:
        return None
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            for fd in (process / "fd").iterdir():
                # Not by its name: a container has terminals of the same names.
                if os.path.samestat(fd.stat(), target):
                    return int(process.name)
    return None
