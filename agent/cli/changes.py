"""What changes at a door, as lines of JSON: `badge-agent watch --json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from agent.errors import OutboxError
from agent.outbox.external.swipes import KeptSwipe, Progress, progress_of, swipes_between
from agent.service.status_file import door_status
from agent.settings import Settings

# Members that change with time alone, or with each swipe, which has its own lines.
_UNCOMPARED = {
    "agent": {"started_at"},
    "outbox": {
        *("pending", "kept", "last_seq", "committed_seq", "delivered", "oldest_pending_seconds", "bytes"),
        "disk_free_bytes",
    },
    "uploader": {"next_try_seconds", "last_commit_at", "rows_committed"},
    "clock": {"since", "ahead_seconds"},
    "reader": {"last_rx_seconds", "last_swipe_at", "swipes"},
}
_DELIVERING = ("idle", "sending")  # alternate with each swipe


class Changes:
    """Compares each look with the one before it. The first look reports the present state, without swipes."""

    def __init__(self, settings: Settings, card: Callable[[str], str]) -> None:
        self._settings = settings
        self._card = card
        self._before: dict[tuple[str, str], dict[str, Any]] = {}
        self._progress: Progress | None = None

    def look(self) -> Iterator[str]:
        """One line of JSON for each change since the last look. Raises NotPermittedError."""
        yield from self._swipes()
        status = door_status(self._settings)
        for change, name, values in _parts(status):
            compared = _compared(change, values)
            if self._before.get((change, name)) != compared:
                self._before[change, name] = compared
                yield _line(change, values)

    def _swipes(self) -> Iterator[str]:
        """Swipes that were stored since the last look, and those that Snowflake has confirmed since."""
        state_dir = self._settings.agent.state_dir
        try:
            now, before = progress_of(state_dir), self._progress
            if before is None or now.last_n < before.last_n:  # the first look, or another file
                self._progress = now
                return
            for first_n, last_n in (
                (before.committed_n + 1, min(now.committed_n, before.last_n)),
                (before.last_n + 1, now.last_n),
            ):
                for swipe in swipes_between(state_dir, first_n, last_n, now):
                    yield self._swipe(swipe)
            self._progress = now
        except OutboxError:
            return  # the status has the reason; the next look begins where this one did

    def _swipe(self, swipe: KeptSwipe) -> str:
        row = swipe.row._asdict()
        if swipe.row.badge_id is not None:
            row["badge_id"] = self._card(swipe.row.badge_id)
        return _line("swipe", {"n": swipe.n, "seq": swipe.seq, "is": swipe.place, **row})


def _compared(change: str, values: dict[str, Any]) -> dict[str, Any]:
    compared = {key: value for key, value in values.items() if key not in _UNCOMPARED[change]}
    if change == "uploader" and values["state"] in _DELIVERING:
        compared["state"] = _DELIVERING
    return compared


def _parts(status: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The parts of a status that are compared: what each is, its name, its members."""
    yield "agent", "", {key: status[key] for key in ("agent_id", "version", "running", "pid", "started_at")}
    yield "outbox", "", status["outbox"]
    if status["running"]:
        if status["uploader"] is not None:
            yield "uploader", "", status["uploader"]
        if status["clock"] is not None:
            yield "clock", "", status["clock"]
        for reader in status["readers"]:
            yield "reader", reader["id"], reader


def _line(change: str, values: dict[str, Any]) -> str:
    return json.dumps({"change": change, **values}, ensure_ascii=False)
