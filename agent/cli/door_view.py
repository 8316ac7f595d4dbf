"""One look at a door, and the view of it that `watch` draws and `page` renders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from agent.cli.console import DoorView, Grid
from agent.cli.findings import findings, is_reporting, last_swipe, reader_state
from agent.cli.operator_action import record
from agent.errors import OutboxError
from agent.outbox.external.swipes import KeptSwipe, newest_swipes
from agent.service.status_file import door_status
from agent.settings import Settings

LOOK_EVERY_S = 0.5
SWIPES_SHOWN = 40
_ONLY_PROBLEMS = ("key", "disk")  # findings that are not shown while they are ok
_SHOWN_OF_CARD = 2
_MASKED_FROM = 6  # characters; of a shorter badge id the last two would be too much


@dataclass(frozen=True, slots=True)
class Look:
    """The status of a door, as `status --json` prints it, and its newest swipes, newest first."""

    status: dict[str, Any]
    swipes: list[KeptSwipe] = field(repr=False)


def look_at(settings: Settings) -> Look:
    """Look at the door, in two short read transactions. Raises NotPermittedError."""
    status = door_status(settings)
    try:
        swipes = newest_swipes(settings.agent.state_dir, SWIPES_SHOWN)
    except OutboxError:
        swipes = []  # the status has the reason
    return Look(status, swipes)


def view_of(look: Look, settings: Settings, *, card: Callable[[str], str], about: str) -> DoorView:
    """The view of a look, with a line `about` how to use it; `card` is plain() or masked()."""
    status = look.status
    title = f"{status['agent_id']}, badge-agent {status['version']}"
    grids = [_readers(status["readers"])] if is_reporting(status) else []
    grids.append(_swipes(look.swipes, card))
    found = findings(status, settings.agent)
    shown = [one for one in found if one.state != "ok" or one.name not in _ONLY_PROBLEMS]
    return DoorView(title, about, shown, grids)


def note_cards(settings: Settings) -> None:
    """Record that a command shows badge ids, as a door event."""
    record(settings, "show_cards", "showed the badge ids of swipes as they came in")


def plain(badge_id: str) -> str:
    """The badge id as it is."""
    return badge_id


def masked(badge_id: str) -> str:
    """A badge id of which the last two characters can be read at most."""
    return f"...{badge_id[-_SHOWN_OF_CARD:]}" if len(badge_id) >= _MASKED_FROM else "..."


def _readers(readers: list[dict[str, Any]]) -> Grid:
    headers = ("reader", "state", "device", "last swipe", "swipes", "noise")
    return Grid("Readers", headers, [_reader(reader) for reader in readers])


def _reader(reader: dict[str, Any]) -> tuple[str, ...]:
    counts = (str(reader[name]) for name in ("swipes", "noise"))
    return reader["id"], reader_state(reader), reader["device"], last_swipe(reader), *counts


def _swipes(swipes: list[KeptSwipe], card: Callable[[str], str]) -> Grid:
    headers = ("time", "reader", "zone", "direction", "badge", "seq", "swipe is")
    return Grid("Last swipes", headers, [_swipe(swipe, card) for swipe in swipes])


def _swipe(swipe: KeptSwipe, card: Callable[[str], str]) -> tuple[str, ...]:
    row = swipe.row
    time = _local(row.event_timestamp) + ("" if row.clock == "synced" else f" ({row.clock})")
    badge_id = card(row.badge_id) if row.badge_id is not None else "erased"
    seq = str(swipe.seq) if swipe.seq is not None else ""
    return time, row.reader_id, row.zone_id, row.direction or "", badge_id, seq, swipe.place


def _local(moment: str) -> str:
    """The local time of a moment, with the date if it is not today's."""
    try:
        local = datetime.fromisoformat(moment).astimezone()
    except OverflowError:  # a wrong clock may show the first or last day of the calendar
        return moment
    is_today = local.date() == datetime.now(local.tzinfo).date()
    return f"{local:%H:%M:%S}" if is_today else f"{local:%Y-%m-%d %H:%M:%S}"
