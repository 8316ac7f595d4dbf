"""Log handlers for the systemd journal, with fields.

With agent.service.notify the only module that imports systemd-python.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from agent.log.message_ids import fields_of

try:
    from systemd import journal
except ImportError:  # not installed, or shadowed by the checkout's own directory of that name
    journal = None

# The socket of sd_journal_send(3), which drops the line silently if the socket is missing.
_SOCKET = Path("/run/systemd/journal/socket")
_IDENTIFIER = "badge-agent"
# syslog levels, as in sd-daemon(3).
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def is_stderr() -> bool:
    """Whether stderr is connected to the journal, not to a terminal or a file."""
    stream = os.environ.get("JOURNAL_STREAM", "")  # device and inode, systemd.exec(5)
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or not a file
        return False
    return stream == f"{stat.st_dev}:{stat.st_ino}"


def handler() -> logging.Handler:
    """A journal handler with fields; without systemd-python or the journal's socket, plain stderr lines."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Prefixed("%(message)s"))
    return _Fields(lines) if journal is not None and _SOCKET.exists() else lines


class _Prefixed(logging.Formatter):
    """Prefixes each line with its priority as <n>, see sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(f"<{_PRIORITIES[record.levelno]}>{line}" for line in text.splitlines())


class _Fields(logging.Handler):
    """Sends records with their fields through sd_journal_send(3).

    systemd-python's JournalHandler is unsuitable: it also sends arguments and exceptions, which may contain
    personal data.
    """

    def __init__(self, lines: logging.Handler) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        try:
            journal.send(
                record.getMessage(),
                PRIORITY=str(_PRIORITIES[record.levelno]),
                SYSLOG_IDENTIFIER=_IDENTIFIER,
                LOGGER=record.name,
                CODE_FILE=record.pathname,
                CODE_LINE=record.lineno,
                CODE_FUNC=record.funcName,
                **fields_of(record),
            )
        except OSError:  # the journal is restarting, or the line is too long for it
            self._lines.handle(record)


def set_up(level: str) -> None:
    """Configure logging: to the journal if stderr is connected to it, else to stderr.

    Other libraries log from WARNING on only: their debug output contains requests with tokens.
    """
    chosen: logging.Handler
    if is_stderr():
        chosen = handler()
    else:
        chosen = logging.StreamHandler(sys.stderr)
        chosen.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.root.handlers[:] = [chosen]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("agent").setLevel(level.upper())
