"""Heartbeats: what the door reports about itself from time to time, signed with its key."""

from __future__ import annotations

import base64
import contextlib
import random
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from agent import __version__, event_rows, rows
from agent.clock.reading import ClockReading
from agent.clock.system_clock import Clock, boottime_s
from agent.errors import AgentError
from agent.event_rows import Anchor
from agent.outbox import Outbox, read_counts
from agent.outbox.disk_room import free_bytes
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.session import PortSession
from agent.rows import iso
from agent.settings import Settings
from agent.snowpipe.client import Client

# The readers have opened their ports by then, and the clock is often set.
_FIRST_AFTER_S = 60.0
# So that the doors of a site do not report at the same moment for ever after a power cut.
_SPREAD = 0.05
# More than Snowflake's own clock and the way of its answer explain.
_WRONG_CLOCK_S = 30.0


class DoorHeartbeats:
    """Due every `heartbeat_minutes`. Used by the uploader's thread only."""

    def __init__(
        self,
        settings: Settings,
        outbox: Outbox,
        client: Client,
        clock: Clock,
        sessions: Sequence[PortSession],
        queue: SwipeQueue,
    ) -> None:
        self._settings = settings
        self._outbox = outbox
        self._client = client
        self._clock = clock
        self._sessions = sessions
        self._queue = queue
        self._interval_s = settings.agent.heartbeat_minutes * 60.0
        self._due_at = boottime_s() + min(_FIRST_AFTER_S, self._interval_s)

    def due_in_s(self) -> float | None:
        """Seconds until the next heartbeat is due, 0.0 if it is; None for never."""
        return max(0.0, self._due_at - boottime_s()) if self._interval_s else None

    def sent(self) -> None:
        """The next one is due after the interval."""
        self._due_at = boottime_s() + self._interval_s * (1.0 + _SPREAD * (2.0 * random.random() - 1.0))  # noqa: S311 - no secret

    def make(self) -> bytes | None:
        """The heartbeat of this moment; None without a key, or while the outbox cannot be read."""
        key, state = self._client.key, self._outbox.state
        if key is None:
            return None
        now = self._outbox.boots.screened(self._clock.now())
        newest = state.generations[-1]
        seq = state.last_n - newest.first_n + 1
        anchor = Anchor(state.outbox_id, seq, state.last_chain, iso(now.wall_us))
        try:
            oldest_pending_s = self._oldest_pending_s(now)
        except AgentError:
            return None
        details = {
            "pending": seq - max(0, state.committed_n - newest.first_n + 1),
            "oldest_pending_seconds": oldest_pending_s,
            "interval_minutes": max(1, round(self._interval_s / 60.0)),
            "version": __version__,
            "clock": self._clock_state(now),
            **self._readers(),
            "disk_free_bytes": self._disk_free_bytes(),
            "key_age_days": _age_days(key.created_at, now),
            "key": key.fingerprint,
            "signature": base64.b64encode(key.sign(anchor.signed_bytes)).decode(),
        }
        return event_rows.heartbeat(
            anchor,
            {name: value for name, value in details.items() if value is not None},
            event_id=str(uuid.uuid4()),
            agent_id=self._settings.agent.id,
            clock="synced" if now.trusted else "estimated",
        )

    def _oldest_pending_s(self, now: ClockReading) -> int | None:
        """How long the oldest pending swipe has waited; 0 without one, None if that is not known."""
        row = read_counts(self._settings.agent.state_dir).oldest_pending_row
        if row is None:
            return 0
        with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged on the disk
            waited = rows.age_s(row, now)
            return round(waited) if waited is not None else None
        return None

    def _clock_state(self, now: ClockReading) -> str:
        """`synced`, `estimated`, or `wrong`: synchronised, but far from Snowflake's clock."""
        if not now.trusted:
            return "estimated"
        ahead_s = self._client.server_clock.ahead_s()
        return "wrong" if ahead_s is not None and abs(ahead_s) > _WRONG_CLOCK_S else "synced"

    def _readers(self) -> dict[str, Any]:
        readers = [reader for session in self._sessions for reader in session.readers]
        is_open = [reader.counts.state == "open" for reader in readers]
        return {
            "readers_open": sum(is_open),
            "readers_lost": len(is_open) - sum(is_open),
            "readers": [
                {
                    "id": reader.settings.id,
                    "state": reader.counts.state,
                    "swipes": self._queue.stored(reader.settings.id),
                    "noise": reader.counts.noise.total(),
                }
                for reader in readers
            ],
        }

    def _disk_free_bytes(self) -> int | None:
        with contextlib.suppress(OSError):
            return free_bytes(self._settings.agent.state_dir)
        return None


def _age_days(created_at: datetime | None, now: ClockReading) -> int | None:
    if created_at is None or not now.trusted:
        return None
    return (datetime.fromtimestamp(now.wall_us / 1e6, UTC) - created_at).days
