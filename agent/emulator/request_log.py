"""Requests received, without user data: a bounded log, counts and peaks."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from agent.emulator.limits import Peak
from agent.emulator.routes import Endpoint

# Some minutes of a busy door; about 1 KiB each in memory.
_KEPT = 4096


@dataclass(slots=True)
class Seen:
    """One request: what it was and how it ended; `status` is null when no answer was sent.

    `arrived_ns` is CLOCK_MONOTONIC when its headers had arrived. Of queries and headers only the
    names are kept, in the order they were sent.
    """

    endpoint: str | None
    method: str
    path: str
    channel: str | None
    query: list[str]
    headers: list[str]
    content_type: str
    content_encoding: str
    request_id: str | None
    retry_count: str | None
    arrived_ns: int
    bytes: int = 0
    status: int | None = None


class RequestLog:
    """The last requests, and per endpoint how many there were and how many within one second at most."""

    def __init__(self) -> None:
        self._seen: deque[Seen] = deque(maxlen=_KEPT)
        self._counts: dict[str, int] = {endpoint.value: 0 for endpoint in Endpoint}
        self._peaks: dict[str, Peak] = {endpoint.value: Peak() for endpoint in Endpoint}

    def note(self, seen: Seen) -> None:
        """Add a request whose headers have arrived; the caller completes it."""
        self._seen.append(seen)
        if seen.endpoint is not None:
            self._counts[seen.endpoint] += 1
            self._peaks[seen.endpoint].add(seen.arrived_ns / 1e9)

    def counts(self) -> dict[str, dict[str, int]]:
        """Per endpoint: `count`, and `max_per_second` over any window of one second."""
        return {
            endpoint: {"count": count, "max_per_second": self._peaks[endpoint].highest}
            for endpoint, count in self._counts.items()
        }

    def seen(self) -> list[dict[str, Any]]:
        """The last requests, oldest first."""
        return [asdict(seen) for seen in self._seen]
