"""A serial port, opened exclusively; the only module that imports pyserial."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import select
import stat
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import serial

from agent.clock.system_clock import boottime_us
from agent.errors import LineSettingsError, NotPermittedError, PortBusyError, PortError
from agent.readers.protocol import LineSettings
from agent.readers.uart import LineErrors, enable_rs485, line_errors

# More than a whole frame of any protocol, and what a UART's buffer holds.
_READ_BYTES = 4096
# The longest wait that is not divided: bytes at its end arrived within a moment, see swipe_pipeline.py.
_SLICE_S = 0.24
# Known to be empty so short a time ago, the port is not asked again before a wait.
_FRESH_US = 10_000
# 89 ms of the fastest line (115,200 baud). A read of fewer bytes has emptied the kernel's buffers; after a
# larger one, bytes may follow that arrived before it.
_BACKLOG_BYTES = 1024
# Device numbers of pseudo-terminals: the major of their slaves, the device that creates them.
_PTS, _PTMX = 136, os.makedev(5, 2)
_INIT = 1
# The errors of pyserial and the system, whose SerialException is an OSError.
_FOREIGN = (OSError, termios.error, TypeError, ValueError)


class FdStore(Protocol):
    """Keeps a port open while no agent runs, so that the kernel buffers what the reader sends.

    The service manager provides it: a process takes the descriptor that the previous one has put.
    """

    def take(self) -> int | None:
        """The file descriptor of the previous process, at the first call only; the caller closes it."""

    def put(self, fd: int) -> None:
        """Store a duplicate of this descriptor, instead of any stored before."""

    def clear(self) -> None:
        """Remove the stored descriptor: the device is gone."""


class _Serial(serial.Serial):
    """pyserial's port, which discards buffered input on opening unless `keeps_input` is set."""

    keeps_input = False

    def read(self, size: int = 1, /) -> bytes:
        """The bytes of a readable port; b"" if another process has read them, or reads at this moment.

        pyserial's read() calls select() once more, which costs time at each poll.
        """
        try:
            data = os.read(self.fileno(), size)
            if not data and select.select([self.fileno()], [], [], 0.0)[0]:
                data = os.read(self.fileno(), size)  # a byte may have come meanwhile
                if not data:
                    raise OSError("it is readable and has no data")  # as a device that was removed
        except BlockingIOError:
            return b""
        return data

    def _reset_input_buffer(self) -> None:
        if not self.keeps_input:
            super()._reset_input_buffer()  # type: ignore[misc] # not public


class Port:
    """An open serial port. read() is for one thread; stop() may be called from any other."""

    def __init__(
        self,
        device: str,
        line: LineSettings,
        *,
        held: int | None = None,
        held_since_us: int = 0,
        busy: Callable[[bool], None] = lambda _: None,
    ) -> None:
        """Open it exclusively. Raises PortBusyError, PortError, or NotPermittedError.

        `held` is a descriptor that has kept the device open, and is closed here: the input buffered
        meanwhile is read first, unless the descriptor is of another device. That input arrived after
        `held_since_us` on the boot-time clock.
        `busy` is called with False before every wait for the reader and with True after it, and around
        nothing else: a hanging driver must not count as a silent reader.
        """
        self.device = device
        self._busy = busy
        # A name under /dev/serial/by-id leads to another device after each replugging.
        self.resolved = os.path.realpath(device)
        keeps_input = held is not None and _release(held, self.resolved)
        # When the input was empty for certain; opening discards input unless it is kept.
        self._empty_at_us = held_since_us if keeps_input else boottime_us()
        # The bytes of the last read() arrived after this moment, in microseconds of the boot-time clock.
        self.since_us = self._empty_at_us
        try:
            self._open(line, keeps_input=keeps_input)
        finally:
            # Not earlier: while the device is closed, input is lost and some boards reset.
            if held is not None:
                os.close(held)

    def _open(self, line: LineSettings, *, keeps_input: bool) -> None:
        device = self.device
        try:
            self._serial = _Serial(
                baudrate=line.baudrate,
                bytesize=line.data_bits,
                parity=line.parity,
                stopbits=line.stop_bits,
                timeout=0,
                exclusive=True,  # flock: excludes processes that lock too
            )
            if line.hold_reset_lines:
                # Before open(), which applies them and ignores that a port has no such lines.
                self._serial.dtr = self._serial.rts = False
            self._serial.port = self.resolved
            self._serial.keeps_input = keeps_input
            self._serial.open()
        except _FOREIGN as error:
            if isinstance(error, termios.error) and error.args[:1] == (errno.EINVAL,):
                raise LineSettingsError(
                    f"{device}: its driver does not support {line}",
                    hint="use another adapter, or set the reader to 8N1",
                ) from error
            raise _error(device, error) from error
        self._fd: int = self._serial.fileno()
        try:
            # TIOCEXCL excludes processes that do not lock, except root's; both are needed.
            fcntl.ioctl(self._fd, termios.TIOCEXCL)
            if line.rs485:
                self._enable_rs485()
            if line.low_latency:
                # Adapters with FTDI's chip hold received bytes back for 16 ms; others have no such mode.
                with contextlib.suppress(OSError, ValueError, NotImplementedError):
                    self._serial.set_low_latency_mode(True)
            self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            self._serial.close()
            raise PortError(f"{device}: {error.strerror}") from error
        except PortError:
            self._serial.close()
            raise
        self._errors = line_errors(self._fd)

    def _enable_rs485(self) -> None:
        try:
            enable_rs485(self._fd)
        except OSError as error:
            raise LineSettingsError(
                f"{self.device}: its driver has no RS-485 mode ({error.strerror})",
                hint="remove rs485 = true: adapters that switch the direction by themselves need no setting",
            ) from error

    def fileno(self) -> int:
        """The descriptor, for an FdStore."""
        return self._fd

    def read(self, timeout_s: float | None) -> bytes:
        """The bytes that have arrived; b"" after `timeout_s` without any, or after stop().

        None waits without limit. Raises PortError when the port is lost. Afterwards `since_us` is the begin
        of the interval in which the bytes arrived, which ends now.
        """
        return self._read([self._fd, self._wake_read], timeout_s)

    def read_rest(self, timeout_s: float) -> bytes:
        """As read(), but not ended by stop(): for the rest of a frame."""
        return self._read([self._fd], timeout_s)

    def pause(self, seconds: float) -> None:
        """Wait so long, or until a stop(), without reading: the kernel buffers the bytes that arrive."""
        self._wait([self._wake_read], seconds)

    def write(self, data: bytes) -> None:
        """Send without waiting; bytes that the driver does not accept are dropped.

        Raises PortError when the port is lost.
        """
        try:
            os.write(self._fd, data)
        except BlockingIOError:
            pass
        except _FOREIGN as error:
            raise _error(self.device, error) from error

    def total_errors(self) -> LineErrors | None:
        """The errors that the kernel has counted since it loaded the driver; None if it counts none."""
        return line_errors(self._fd)

    def new_errors(self) -> LineErrors | None:
        """The errors counted since the last call, or since the opening; None if the kernel counts none."""
        before = self._errors
        if before is None:
            return None
        self._errors = line_errors(self._fd) or before
        return self._errors.since(before)

    def stop(self) -> None:
        """Make the waiting read() and every later one return immediately."""
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b"x")

    def close(self) -> None:
        """Close the port. Only the reading thread calls this, after its last read()."""
        with contextlib.suppress(OSError, serial.SerialException, termios.error):
            # An FdStore that keeps the device open would keep this lock too.
            fcntl.ioctl(self._fd, termios.TIOCNXCL)
        with contextlib.suppress(OSError, serial.SerialException, termios.error):
            self._serial.close()
        self._fd = -1  # the number may be another file's
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _read(self, waits_for: list[int], timeout_s: float | None) -> bytes:
        left_s = math.inf if timeout_s is None else timeout_s
        ends_s = time.monotonic() + left_s
        try:
            while True:
                readable = self._waited(waits_for, max(0.0, min(_SLICE_S, left_s)))
                if self._fd in readable:
                    if data := self._received():
                        return data
                elif readable:
                    return b""  # stop()
                left_s = ends_s - time.monotonic()
                if left_s <= 0.0:
                    return b""
        except _FOREIGN as error:
            raise _error(self.device, error) from error

    def _waited(self, waits_for: list[int], wait_s: float) -> list[int]:
        """The descriptors that are readable within `wait_s`; notes when the port was empty."""
        begun_us = boottime_us()
        if begun_us - self._empty_at_us > _FRESH_US:
            if readable := self._wait(waits_for, 0.0):
                return readable
            self._empty_at_us = begun_us
        if readable := self._wait(waits_for, wait_s):
            return readable
        self._empty_at_us = begun_us + int(wait_s * 1e6)  # select(2) looks once more when its time is over
        return []

    def _wait(self, waits_for: list[int], timeout_s: float) -> list[int]:
        """The descriptors that are readable."""
        self._busy(False)
        try:
            return select.select(waits_for, [], [], timeout_s)[0]
        finally:
            self._busy(True)

    def _received(self) -> bytes:
        self.since_us, read_us = self._empty_at_us, boottime_us()
        data = self._serial.read(_READ_BYTES)
        if len(data) < _BACKLOG_BYTES:
            self._empty_at_us = read_us
        return data


def leads_to(fd: int, device: str) -> bool:
    """True if this open descriptor is of the device that has this name now."""
    try:
        its, now = os.fstat(fd), Path(device).stat()
    except OSError:
        return False
    return stat.S_ISCHR(now.st_mode) and (its.st_rdev, its.st_ino) == (now.st_rdev, now.st_ino)


def _release(held: int, resolved: str) -> bool:
    """Release the locks of this descriptor on its device; False if it is of another device."""
    try:
        if not leads_to(held, resolved):
            return False
        # Set by the agent that opened it; they last as long as the descriptor.
        fcntl.ioctl(held, termios.TIOCNXCL)
        fcntl.flock(held, fcntl.LOCK_UN)
    except OSError:
        return False
    return True


def _error(device: str, error: Exception) -> PortError | NotPermittedError:
    """One of the three errors of this module, for one of pyserial or the system."""
    text = str(error)
    number = getattr(error, "errno", None)
    if "exclusively lock" in text or "Device or resource busy" in text:
        holder = next(iter(holders_of(device)), None)
        by = f"process {holder}" if holder else "another process"
        return PortBusyError(
            f"{device} is held by {by}",
            hint=f"end it, or let it use another port: ps -p {holder}"
            if holder
            else f"sudo fuser -v {device}",
        )
    if number == errno.EACCES:
        return NotPermittedError(
            f"not permitted to open {device}", hint="sudo usermod -aG dialout $USER, then log in again"
        )
    if number == errno.EPERM:
        return _not_allowed(device)
    if number == errno.ENOTTY or "Inappropriate ioctl" in text:
        return PortError(f"{device} is not a serial port", hint="list them: ls -l /dev/serial/by-id/")
    if number == errno.ENOENT or not Path(device).exists():
        return not_there(device)
    return PortError(f"{device} was lost: {text}", hint="it is reopened as soon as it is available")


def _not_allowed(device: str) -> NotPermittedError:
    """EPERM: file modes allow the open, the device filter of the service's control group does not."""
    try:
        number = f"char-{os.major(Path(device).stat().st_rdev)}"
    except OSError:
        number = "char-MAJOR"
    return NotPermittedError(
        f"{device}: DeviceAllow= of the unit does not name this device ({number})",
        hint=f"sudo systemctl edit badge-agent, add: [Service] DeviceAllow={number} rw; "
        "then: sudo systemctl restart badge-agent",
    )


def not_there(device: str) -> PortError:
    """The error for a port that does not exist at present."""
    return PortError(f"{device} is not there", hint="is the reader plugged in? ls -l /dev/serial/by-id/")


def holders_of(device: str) -> list[int]:
    """The pids of the other processes that have the device open, as far as /proc shows them to this user.

    Without systemd, which stores the descriptor of the agent's port and never reads it.
    """
    try:
        target = Path(device).stat()
    except OSError:
        return []
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return sorted(pid for pid in pids if pid not in {_INIT, os.getpid()} and _has_open(pid, target))


def _has_open(pid: int, target: os.stat_result) -> bool:
    found, is_pty = False, os.major(target.st_rdev) == _PTS
    with contextlib.suppress(OSError):  # the process has ended, or belongs to another user
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # closed meanwhile
                stat_of_fd = fd.stat()
                # Compared by device, not by name: a container has terminals of the same names.
                found = found or os.path.samestat(stat_of_fd, target)
                if is_pty and stat_of_fd.st_rdev == _PTMX:
                    return False  # the other end of a pseudo-terminal, which simulates a reader
                if found and not is_pty:
                    return True
    return found
