"""The state of a door as one object, from the status file and the outbox: what every command shows.

Imports neither the client nor the readers, so that `badge-agent status` starts quickly.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from agent import __version__, rows
from agent.clock.system_clock import SystemClock, boottime_s
from agent.errors import AgentError, printable
from agent.guarded_file import read_guarded
from agent.outbox import OutboxCounts, is_held, read_counts
from agent.outbox.disk_room import free_bytes
from agent.outbox.external.connection import is_there
from agent.outbox.recovery.progress import Recovery
from agent.outbox.recovery.quarantine import copies
from agent.outbox.recovery.sectors import SectorReader
from agent.service.state_disk import state_problem
from agent.settings import Settings

STATUS_FILE = "status.json"
_MAX_BYTES = 1_000_000  # a hundred readers have 60,000


def read_status(agent_id: str, state_dir: Path, runtime_dir: Path) -> dict[str, Any]:
    """The object that `status --json` prints, for a running or stopped agent. A bad file raises nothing."""
    running = is_held(state_dir)
    report = _report(runtime_dir / STATUS_FILE)
    return status_of(agent_id, report, read_outbox(state_dir), running=running)


def status_of(
    agent_id: str, report: dict[str, Any], outbox: dict[str, Any], *, running: bool
) -> dict[str, Any]:
    """The object that `status --json` prints, from the agent's report and the state of its outbox."""
    waiting = sum(reader.get("unkept", 0) for reader in report.get("readers", [])) if running else 0
    if waiting:
        problem = f"it cannot be written, see the log: {waiting} swipes wait in memory"
        outbox = outbox | {"ok": False, "problem": problem}
    return {
        "agent_id": agent_id,
        "version": report.get("version", __version__),
        "running": running,
        "pid": report.get("pid") if running else None,
        "started_at": report.get("started_at") if running else None,
        "outbox": outbox,
        "uploader": report.get("uploader"),
        "door_events": report.get("door_events", {"problem": None}),
        "token": report.get("token", {"expires_at": None}),
        "key": _key(report),
        "clock": report.get("clock"),
        "disk": report.get("disk"),
        "readers": report.get("readers", []),
    }


def is_healthy(status: dict[str, Any]) -> bool:
    """True if the agent works and needs no operator; swipes may wait while the network is down."""
    return (
        status["running"]
        and status["outbox"]["ok"]
        and not needs_operator(status["outbox"])
        and status["uploader"] is not None
        and status["uploader"]["state"] != "holding"
        and all(
            reader["state"] == "open" and not reader.get("silent") and not reader.get("conditions")
            for reader in status["readers"]
        )
    )


def needs_operator(outbox: dict[str, Any]) -> bool:
    """True if rows of the `outbox` object are held for an operator."""
    return bool(outbox["set_aside"] or outbox["rejected"])


def door_status(settings: Settings) -> dict[str, Any]:
    """read_status() of a configured door, with the state directory that a power cut would lose as a problem.

    Raises NotPermittedError if this user may not read the outbox.
    """
    agent = settings.agent
    is_there(agent.state_dir)  # raises without permission
    status = read_status(agent.id, agent.state_dir, agent.runtime_dir)
    problem = state_problem(settings)
    if problem and status["outbox"]["ok"]:
        status["outbox"] |= {"ok": False, "problem": problem}
    return status


def _report(path: Path) -> dict[str, Any]:
    """The status file with its durations updated to now; empty if it is missing or unusable."""
    try:
        content = _printable(json.loads(read_guarded(path, _MAX_BYTES)))
        since = boottime_s() - content["boot_s"]
        uploader, readers = content["uploader"], content["readers"]
        uploader["next_try_seconds"] = max(0.0, round(uploader["next_try_seconds"] - since, 1))
        for reader in readers:
            if reader["last_rx_seconds"] is not None:
                reader["last_rx_seconds"] = round(reader["last_rx_seconds"] + since, 1)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return cast("dict[str, Any]", content)


def _printable(value: Any) -> Any:  # noqa: ANN401 - any value of JSON
    """The value without control characters: the account that wrote it may be compromised."""
    match value:
        case str():
            return printable(value)
        case list():
            return [_printable(one) for one in value]
        case dict():
            return {key: _printable(one) for key, one in value.items()}
    return value


def _key(report: dict[str, Any]) -> dict[str, Any]:
    """The key that the agent signs with, and its age in days if a trusted clock allows it."""
    key: dict[str, Any] = report.get("key", {"fingerprint": None, "created_at": None})
    born, clock = key["created_at"], report.get("clock")
    is_known = born is not None and clock is not None and clock["trusted"]
    age = datetime.now(UTC) - datetime.fromisoformat(born) if is_known else None
    return {**key, "age_days": None if age is None else age.days}


def read_outbox(state_dir: Path, count: Callable[[Path], OutboxCounts] = read_counts) -> dict[str, Any]:
    """The member `outbox` of a status; `problem` says why it cannot be read. `count` raises AgentError."""
    try:
        return _counts(state_dir, count) | {"quarantined": [copy.name for copy in copies(state_dir)]}
    except OSError as error:
        return _unknown(f"{state_dir} cannot be examined: {error.strerror}") | {"quarantined": []}


def _counts(state_dir: Path, count: Callable[[Path], OutboxCounts]) -> dict[str, Any]:
    try:
        if not is_there(state_dir):
            return _unknown(f"no outbox in {state_dir} yet; the first start creates it")
        counts = count(state_dir)
    except AgentError as error:
        return _unknown(str(error))
    return {
        "outbox_id": counts.outbox_id,
        "pending": counts.pending,
        "kept": counts.kept,
        "rejected": counts.rejected,
        "set_aside": counts.set_aside,
        "unreadable": counts.unreadable,
        "replays": counts.replays,
        "last_seq": counts.last_seq,
        "committed_seq": counts.committed_seq,
        "delivered": counts.delivered,
        "oldest_pending_seconds": _age(counts),
        "bytes": counts.bytes,
        "disk_free_bytes": free_bytes(state_dir),
        "recovering": _recovering(counts.recovery, state_dir),
        "ok": True,
        "problem": None,
    }


def _unknown(problem: str) -> dict[str, Any]:
    """The members of a readable outbox, all null, so that the schema of the JSON stays the same."""
    members = ("outbox_id", "pending", "kept", "rejected", "set_aside", "last_seq", "committed_seq")
    others = ("delivered", "unreadable", "replays", "oldest_pending_seconds", "bytes", "disk_free_bytes")
    return {**dict.fromkeys((*members, *others, "recovering")), "ok": False, "problem": problem}


def _recovering(recovery: Recovery | None, state_dir: Path) -> dict[str, Any] | None:
    """The progress with the rows of a damaged file: pending ones, then committed ones kept for replay.

    Of rows that no number leads to, the progress is `searched_bytes` of `bytes`.
    """
    if recovery is None:
        return None
    files = [SectorReader(state_dir / (recovery.name + side)) for side in ("", "-wal")]
    return {
        "file": recovery.name,
        "rows": "pending" if recovery.withholds else "kept",
        "done": recovery.done,
        "total": recovery.total,
        "searched_bytes": recovery.searched_bytes,
        "bytes": sum(file.size for file in files),
    }


def _age(counts: OutboxCounts) -> float | None:
    """How long the oldest pending swipe has waited, in seconds; None if unknown."""
    if counts.oldest_pending_row is None:
        return None
    try:
        waited = rows.age_s(counts.oldest_pending_row, SystemClock().now())
    except (ValueError, KeyError, TypeError):
        return None  # the row was damaged on disk
    return round(waited, 1) if waited is not None else None
