"""Where the agent's log goes and how its lines look, on a terminal and in the journal."""

from __future__ import annotations

import logging
import sys

from agent.log import journal


def set_up(level: str) -> None:
    """Send the agent's log to the journal where stderr leads there, else to stderr.

    Foreign libraries speak from WARNING on only: their debug output shows requests with their tokens.
    """
    handler: logging.Handler
    if journal.is_stderr():
        handler = journal.handler()
    else:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.root.handlers[:] = [handler]
    logging.root.setLevel(logging.WARNING)
    logging.getLogger("agent").setLevel(level.upper())
