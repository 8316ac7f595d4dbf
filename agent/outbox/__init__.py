"""The outbox: the durable queue of swipes and door events. The only package that imports sqlite3.

Its names are imported at their first use: `badge-agent status` needs none of the modules that write.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.outbox.event_source import EventRows, Heartbeats, NoHeartbeats
    from agent.outbox.external.counts import OutboxCounts, read_counts
    from agent.outbox.generation import machine_id
    from agent.outbox.live_rows import LiveRows
    from agent.outbox.replay_rows import ReplayRows
    from agent.outbox.row_source import Batch, ErrorCount, Position, Rejected, RowSource
    from agent.outbox.state_lock import is_held
    from agent.outbox.store import Outbox

__all__ = [
    "Batch",
    "ErrorCount",
    "EventRows",
    "Heartbeats",
    "LiveRows",
    "NoHeartbeats",
    "Outbox",
    "OutboxCounts",
    "Position",
    "Rejected",
    "ReplayRows",
    "RowSource",
    "is_held",
    "machine_id",
    "read_counts",
]

_NAMES = {
    "event_source": ("EventRows", "Heartbeats", "NoHeartbeats"),
    "external.counts": ("OutboxCounts", "read_counts"),
    "generation": ("machine_id",),
    "live_rows": ("LiveRows",),
    "replay_rows": ("ReplayRows",),
    "row_source": ("Batch", "ErrorCount", "Position", "Rejected", "RowSource"),
    "state_lock": ("is_held",),
    "store": ("Outbox",),
}


def __getattr__(name: str) -> object:
    """PEP 562: import a name of __all__ from its module."""
    for module, names in _NAMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(name)
