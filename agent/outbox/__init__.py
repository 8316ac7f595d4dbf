"""The outbox: the durable queue of swipes and door events. The only package that imports sqlite3."""

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
