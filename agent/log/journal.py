"""The log of the agent: to the systemd journal with fields, or as lines to stderr.

Entries are sent in systemd's "Native Journal Protocol" with Python's own socket. systemd-python is
unsuitable: it keeps Python's global lock while it waits for the journal, which stops every thread.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from agent.log.log_queue import LogQueue
from agent.log.message_ids import READERS_SEPARATOR, fields_of

_SOCKET = Path("/run/systemd/journal/socket")
_IDENTIFIER = "badge-agent"
# syslog levels, as in sd-daemon(3).
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}

Write = Callable[[logging.LogRecord], None]


def set_up(level: str) -> None:
    """Configure logging: to the journal if stderr is connected to it, else to stderr. Log calls never block.

    Other libraries log from WARNING on only: their debug output contains requests with tokens.
    """
    flush()
    logging.root.handlers[:] = [LogQueue(_journal() if is_stderr() else _terminal())]
    logging.root.setLevel(logging.WARNING)
    set_level(level)


def set_level(level: str) -> None:
    """Log the agent's own lines from this level on. Lines from INFO on are made: door events need them."""
    number = logging.getLevelNamesMapping()[level.upper()]
    for handler in logging.root.handlers:
        handler.setLevel(number)
    logging.getLogger("agent").setLevel(min(number, logging.INFO))


def flush() -> None:
    """Wait until the lines logged so far are written, for at most one second."""
    for handler in logging.root.handlers:
        if isinstance(handler, LogQueue):
            handler.flush()


def is_stderr() -> bool:
    """Whether stderr is connected to the journal, not to a terminal or a file."""
    stream = os.environ.get("JOURNAL_STREAM", "")  # device and inode, systemd.exec(5)
    descriptor = _stderr()
    if descriptor is None:
        return False
    stat = os.fstat(descriptor)
    return stream == f"{stat.st_dev}:{stat.st_ino}"


def _terminal() -> Write:
    return _lines_to(_stderr(), logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))


def _journal() -> Write:
    """Entries with fields; without the journal's socket, lines with their priority."""
    lines = _lines_to(_stderr(), _Prefixed("%(message)s"))
    return _entries(lines) if _SOCKET.exists() else lines


def _stderr() -> int | None:
    """The descriptor of stderr, None if it is closed: its number may belong to another file then."""
    try:
        descriptor = sys.stderr.fileno()
        os.fstat(descriptor)
    except (AttributeError, OSError, ValueError):  # None, closed, or not a file
        return None
    return descriptor


class _Prefixed(logging.Formatter):
    """Prefixes each line with its priority as <n>, see sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(f"<{_priority(record)}>{line}" for line in text.splitlines())


def _lines_to(descriptor: int | None, formatter: logging.Formatter) -> Write:
    """Writes lines to a descriptor, without sys.stderr: a write that hangs keeps its lock, also at exit."""

    def write(record: logging.LogRecord) -> None:
        if descriptor is None:
            return
        rest = f"{formatter.format(record)}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # no other place to report it
            while rest:
                rest = rest[os.write(descriptor, rest) :]

    return write


def _entries(lines: Write) -> Write:
    """Sends journal entries; those that the journal does not accept are written as `lines`."""
    sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def write(record: logging.LogRecord) -> None:
        try:
            sender.sendto(_entry(record), str(_SOCKET))
        except OSError:  # the journal is restarting, or the entry is too long for a datagram
            lines(record)

    return write


def _entry(record: logging.LogRecord) -> bytes:
    """The datagram of an entry: the message and the fields; exceptions may contain personal data."""
    values: Mapping[str, str] = {
        "MESSAGE": record.getMessage(),
        "PRIORITY": str(_priority(record)),
        "SYSLOG_IDENTIFIER": _IDENTIFIER,
        "LOGGER": record.name,
        "CODE_FILE": record.pathname,
        "CODE_LINE": str(record.lineno),
        "CODE_FUNC": record.funcName or "",
        **fields_of(record),
    }
    # One field for each reader of a port, so that READER= finds the line by the id of any of them.
    readers = values.get("READER", "").split(READERS_SEPARATOR)
    pairs = [pair for pair in values.items() if pair[0] != "READER"]
    pairs += [("READER", reader) for reader in readers if reader]
    return b"".join(_field(name, value.encode(errors="backslashreplace")) for name, value in pairs)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), len(value).to_bytes(8, "little"), value)


def _priority(record: logging.LogRecord) -> int:
    return _PRIORITIES.get(record.levelno, _PRIORITIES[logging.INFO])
