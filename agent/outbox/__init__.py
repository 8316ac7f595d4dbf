"""The outbox: where a swipe is safe. The only room that imports sqlite3."""

from agent.outbox.lock import is_held
from agent.outbox.store import Batch, Outbox, OutboxCounts, read_counts

__all__ = ["Batch", "Outbox", "OutboxCounts", "is_held", "read_counts"]
