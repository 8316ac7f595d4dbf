"""The age of a private key, and from when on it should be changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.clock.reading import ClockReading

OLD_AFTER = timedelta(days=90)
ROTATE = "sudo badge-agent key rotate"


def age_of(created_at: datetime | None, now: ClockReading) -> timedelta | None:
    """The age of a key; None if its creation time is unknown or the clock is not trusted."""
    if created_at is None or not now.trusted:
        return None
    return datetime.fromtimestamp(now.wall_us / 1e6, UTC) - created_at
