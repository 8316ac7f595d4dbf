"""The journal's own way in, for lines with fields; beside `notify` the only importer of systemd-python."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from agent.log.message_ids import fields_of

try:
    from systemd import journal
except ImportError:  # not installed, or only the folder of that name at the top of a checkout
    journal = None

# Where sd_journal_send(3) sends to. Without it that function drops the line and says nothing.
_SOCKET = Path("/run/systemd/journal/socket")
_IDENTIFIER = "badge-agent"
# sd-daemon(3): syslog's levels.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def is_stderr() -> bool:
    """True when what is written to stderr goes to the journal, and not to a terminal or a file instead."""
    told = os.environ.get("JOURNAL_STREAM", "")  # device and inode, systemd.exec(5)
    try:
        stat = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # closed, or no file
        return False
    return told == f"{stat.st_dev}:{stat.st_ino}"


def handler() -> logging.Handler:
    """Sends lines with their fields; without, where systemd-python or the journal's socket is missing."""
    lines = logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Prefixed("%(message)s"))
    return _Fields(lines) if journal is not None and _SOCKET.exists() else lines


class _Prefixed(logging.Formatter):
    """sd-daemon(3): a line that begins with <n> has priority n in the journal."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(f"<{_PRIORITIES[record.levelno]}>{line}" for line in text.splitlines())


class _Fields(logging.Handler):
    """Not systemd-python's JournalHandler: that one also sends the arguments of a line and its exception,
    with what they may hold of a person.
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
        except OSError:  # the journal is starting anew, or takes no line of this size
            self._lines.handle(record)


def set_up(level: str) -> None:
    """Send the agent's log to the journal where stderr leads there, else to stderr.

    Foreign libraries speak from WARNING on only: their debug output shows requests with their tokens.
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
