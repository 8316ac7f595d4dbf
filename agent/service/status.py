"""The status report: what `badge-agent status` shows, written to a file in the runtime directory."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from agent import __version__, rows
from agent.clock.reading import ClockReading
from agent.clock.system_clock import Clock, SystemClock, boottime_s
from agent.errors import AgentError
from agent.guarded_file import open_guarded, read_guarded
from agent.outbox import Outbox, OutboxCounts, is_held, read_counts
from agent.outbox.disk_room import free_bytes
from agent.outbox.external.connection import is_there
from agent.outbox.recovery.progress import Recovery
from agent.outbox.recovery.quarantine import copies
from agent.outbox.recovery.sectors import SectorReader
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.protocols.osdp.reader import Osdp
from agent.readers.reader import Reader
from agent.rows import iso
from agent.service.port_watch import PortWatch
from agent.snowpipe.client import Client
from agent.uploader.uploader import Uploader

STATUS_FILE = "status.json"
_MODE = 0o640
_MAX_BYTES = 1_000_000  # a hundred readers have 60,000


class StatusReport:
    """Snapshots of the running agent, written to the file that `badge-agent status` reads.

    Moments are recorded on the boot clock and converted to the present wall clock when reported.
    """

    def __init__(
        self,
        *,
        agent_id: str,
        clock: Clock,
        outbox: Outbox,
        uploader: Uploader,
        client: Client,
        readers: list[Reader],
        queue: SwipeQueue,
        port_watch: PortWatch,
    ) -> None:
        self._agent_id = agent_id
        self._clock = clock
        self._outbox = outbox
        self._uploader = uploader
        self._client = client
        self._readers = readers
        self._queue = queue
        self._port_watch = port_watch
        self._started_us = clock.now().boot_us

    def snapshot(self) -> dict[str, Any]:
        """State that only the running process has; times as UTC ISO 8601, durations in seconds."""
        now = self._clock.now()
        monotonic_s = time.monotonic()
        uploader = self._uploader.status()
        expires_at, key = self._client.jwt.expires_at, self._client.key
        return {
            "agent_id": self._agent_id,
            "version": __version__,
            "pid": os.getpid(),
            "started_at": _at(self._started_us, now),
            "boot_s": now.boot_us / 1e6,
            "uploader": {
                "state": uploader.state,
                "reason": uploader.reason,
                "channel": uploader.channel,
                "last_commit_at": _commit_at(uploader.last_commit_at, now),
                "next_try_seconds": round(uploader.next_try_seconds, 1),
                "consecutive_failures": uploader.consecutive_failures,
                "rows_committed": uploader.rows_committed,
            },
            "token": {"expires_at": iso(int(expires_at * 1e6)) if expires_at is not None else None},
            "key": {
                "fingerprint": key.fingerprint if key is not None else None,
                "created_at": _iso(key.created_at) if key is not None else None,
            },
            "clock": self._clock_state(now),
            "disk": {"flushes": self._outbox.file.flushes, "bytes_written": _bytes_written()},
            "readers": [
                _reader(reader, self._queue, monotonic_s, now)
                | {"problems": [asdict(one) for one in self._port_watch.problems(reader)]}
                for reader in self._readers
            ],
        }

    def _clock_state(self, now: ClockReading) -> dict[str, Any]:
        """`correction_seconds` is added to timestamps taken before the clock was synchronised.

        `ahead_seconds` is relative to Snowflake's clock; negative for a slow clock.
        """
        state, ahead_s = self._outbox.boots.state(now), self._client.server_clock.ahead_s()
        correction_us = state.correction_us
        return {
            "trusted": state.trusted,
            "since": _at(state.since_us, now) if state.since_us is not None else None,
            "correction_seconds": round(correction_us / 1e6, 3) if correction_us is not None else None,
            "ahead_seconds": round(ahead_s, 1) if ahead_s is not None else None,
        }

    def write(self, runtime_dir: Path) -> None:
        """Replace the status file atomically."""
        # No fsync, unlike replace_file(): of no use after a power cut, and written up to five times a second.
        temporary = runtime_dir / f".{STATUS_FILE}.{os.getpid()}"
        with os.fdopen(open_guarded(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
            # Not for all users: it shows when a door was used. Monitoring joins the group of the agent.
            os.fchmod(file.fileno(), _MODE)
            file.write(json.dumps(self.snapshot()) + "\n")
        temporary.replace(runtime_dir / STATUS_FILE)


def read_status(agent_id: str, state_dir: Path, runtime_dir: Path) -> dict[str, Any]:
    """The object that `status --json` prints, for a running or stopped agent. A bad file raises nothing."""
    running = is_held(state_dir)
    report = _report(runtime_dir / STATUS_FILE)
    outbox = _outbox(state_dir) | {"quarantined": [copy.name for copy in copies(state_dir)]}
    waiting = sum(reader.get("unkept", 0) for reader in report.get("readers", [])) if running else 0
    if waiting:
        outbox |= {
            "ok": False,
            "problem": f"it cannot be written, see the log: {waiting} swipes wait in memory",
        }
    return {
        "agent_id": agent_id,
        "version": report.get("version", __version__),
        "running": running,
        "pid": report.get("pid") if running else None,
        "started_at": report.get("started_at") if running else None,
        "outbox": outbox,
        "uploader": report.get("uploader"),
        "token": report.get("token", {"expires_at": None}),
        "key": _key(report),
        "clock": report.get("clock"),
        "disk": report.get("disk"),
        "readers": report.get("readers", []),
    }


def _report(path: Path) -> dict[str, Any]:
    """The status file with its durations updated to now; empty if it is missing or unusable."""
    try:
        content = json.loads(read_guarded(path, _MAX_BYTES))
        since = boottime_s() - content["boot_s"]
        uploader, readers = content["uploader"], content["readers"]
        uploader["next_try_seconds"] = max(0.0, round(uploader["next_try_seconds"] - since, 1))
        for reader in readers:
            if reader["last_rx_seconds"] is not None:
                reader["last_rx_seconds"] = round(reader["last_rx_seconds"] + since, 1)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return cast("dict[str, Any]", content)


def _key(report: dict[str, Any]) -> dict[str, Any]:
    """The key that the agent signs with, and its age in days if a trusted clock allows it."""
    key: dict[str, Any] = report.get("key", {"fingerprint": None, "created_at": None})
    born, clock = key["created_at"], report.get("clock")
    is_known = born is not None and clock is not None and clock["trusted"]
    age = datetime.now(UTC) - datetime.fromisoformat(born) if is_known else None
    return {**key, "age_days": None if age is None else age.days}


def _outbox(state_dir: Path) -> dict[str, Any]:
    try:
        if not is_there(state_dir):
            return _unknown(f"no outbox in {state_dir} yet; the first start creates it")
        counts = read_counts(state_dir)
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


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _bytes_written() -> int | None:
    """Bytes that this process caused to be written to disks; None if the kernel does not count them.

    write_bytes of proc_pid_io(5): whole 4 KiB pages, without memory file systems. The wear of an SD card is
    higher: file system metadata and erase blocks come on top.
    """
    try:
        counters = Path("/proc/self/io").read_text(encoding="ascii")
    except OSError:
        return None
    return int(counters.partition("\nwrite_bytes:")[2].split()[0])


def _commit_at(boot_s: float | None, now: ClockReading) -> str | None:
    return None if boot_s is None else _at(int(boot_s * 1e6), now)


def _at(boot_us: int, now: ClockReading) -> str:
    """A moment of this boot, converted with the present offset of the wall clock."""
    return iso(now.wall_us - (now.boot_us - boot_us))


def _reader(reader: Reader, queue: SwipeQueue, monotonic_s: float, now: ClockReading) -> dict[str, Any]:
    counts, settings = reader.counts, reader.settings
    last_swipe, last_rx = counts.last_swipe_boot_us, counts.last_rx_monotonic_s
    return {
        "id": settings.id,
        "state": counts.state,
        "silent": reader.line_monitor.silent,
        "noisy": reader.line_monitor.noisy,
        "flooding": reader.flood_monitor.flooding,
        "conditions": sorted(reader.conditions.active),
        "osdp": _osdp(reader.osdp),
        "device": str(settings.port),
        "resolved_device": counts.resolved_device,
        "protocol": settings.protocol,
        "swipes": queue.stored(settings.id),
        "repeats": counts.repeats,
        "noise": counts.noise.total(),
        "noise_reasons": {reason.value: count for reason, count in sorted(counts.noise.items())},
        "line_errors": counts.line_errors._asdict() if counts.line_errors is not None else None,
        "keys_discarded": counts.keys_discarded,
        "unkept": queue.blocked(settings.id),
        "lost": queue.lost(settings.id),
        "flood_refused": queue.flood_refused(settings.id),
        "last_swipe_at": _at(last_swipe, now) if last_swipe is not None else None,
        "last_rx_seconds": round(monotonic_s - last_rx, 1) if last_rx is not None else None,
    }


def _osdp(reader: Osdp | None) -> dict[str, Any] | None:
    """The link to an OSDP reader, and its identity; None for other readers."""
    if reader is None:
        return None
    link = reader.link
    identity = link.identity
    return {
        "address": link.address,
        "online": link.is_online,
        "secure": link.is_secure,
        "identity": identity._asdict() if identity is not None else None,
    }
