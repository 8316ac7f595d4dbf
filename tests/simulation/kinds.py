"""The register of what can happen to a door, and how long a fault lasts."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tests.simulation.history import History

# An event draws its own extent, and returns False where it cannot happen now.
Event = Callable[[History, Random], bool]
EVENTS: dict[str, Event] = {}
# In every history: how frequent, where a fault has 0.1 to 5.
ALWAYS = {"swipe": 4.0, "burst": 0.4}
# The last poll for errors that are counted late comes sooner after a commit.
LATE_COUNTS_S = 700.0
# The first of half of the histories, and of no other.
FIRST = "time_service"
# A kind that does nothing, or little, without another one: both are drawn.
COMPANIONS = {
    "ntp_goes": "ntp_comes",
    "pipe_repaired": "rows_refused",
    "backup_restored": "backup_made",
    "holds_released": "rows_refused",
    "odd_status": "rows_not_loaded",
}


def event(function: Event) -> Event:
    """Register an event under the name of its function."""
    EVENTS[function.__name__] = function
    return function


def extent(draw: Random) -> float:
    """How long a fault lasts: seconds, minutes or hours."""
    return draw.choice((1.0, 10.0, 100.0, 1_000.0, 10_000.0)) * draw.uniform(0.3, 2.0)
