"""How the agent's log lines look, on a terminal and in the journal."""

from __future__ import annotations

import logging
import os
import sys

# sd-daemon(3): a line that begins with <n> has priority n in the journal.
_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _JournalFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "\n".join(f"<{_PRIORITIES[record.levelno]}>{line}" for line in text.splitlines())


def set_up(level: str) -> None:
    """Send the agent's log to stderr.

    Foreign libraries speak from WARNING on only: their debug output shows requests with their tokens.
    """
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("agent").setLevel(level.upper())
