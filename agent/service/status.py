"""The status report of the running agent, written to a file in the runtime directory."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from agent import __version__
from agent.clock.reading import ClockReading
from agent.clock.system_clock import Clock
from agent.guarded_file import open_guarded
from agent.outbox import Outbox, OutboxCounts
from agent.outbox.external.counts import counts_of
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.protocols.osdp.reader import Osdp
from agent.readers.reader import Reader
from agent.rows import iso
from agent.service import metrics
from agent.service.port_watch import PortWatch
from agent.service.status_file import STATUS_FILE, read_outbox, status_of
from agent.snowpipe.client import Client
from agent.uploader.uploader import Uploader

_MODE = 0o640


class StatusReport:
    """Snapshots of the running agent, written to the file that `badge-agent status` reads, and as metrics.

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
        self.look_at_outbox()

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
            "door_events": {"problem": uploader.events_problem},
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

    def look_at_outbox(self) -> None:
        """Read what the metrics have of the outbox. For the uploader's thread: the disk may be slow."""
        self._outbox_seen = read_outbox(self._outbox.file.path.parent, self._count)

    def _count(self, state_dir: Path) -> OutboxCounts:
        # Through the open file: to open it again changes its files' dates where the agent runs as root.
        with self._outbox.reading() as connection:
            return counts_of(connection, state_dir)

    def status(self) -> dict[str, Any]:
        """The object that `status --json` prints, for the running agent itself."""
        return self._status_of(self.snapshot())

    def _status_of(self, report: dict[str, Any]) -> dict[str, Any]:
        """The counts of the outbox are a few seconds old, except those that are in memory."""
        outbox = self._outbox_seen | {
            "outbox_id": self._outbox.outbox_id,
            "pending": self._outbox.pending,
            "last_seq": self._outbox.last_seq,
            "committed_seq": self._outbox.committed_seq,
        }
        if not self._outbox.pending:
            outbox["oldest_pending_seconds"] = None
        return status_of(self._agent_id, report, outbox, running=True)

    def write(self, runtime_dir: Path) -> None:
        """Replace the status file and the metrics file, each atomically."""
        report = self.snapshot()
        _replace(runtime_dir / STATUS_FILE, json.dumps(report) + "\n")
        _replace(runtime_dir / metrics.METRICS_FILE, metrics.text_of(self._status_of(report)))


def _replace(path: Path, content: str) -> None:
    # No fsync, unlike replace_file(): of no use after a power cut, and written up to five times a second.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(open_guarded(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w") as file:
        # Not for all users: it shows when a door was used. Monitoring joins the group of the agent.
        os.fchmod(file.fileno(), _MODE)
        file.write(content)
    temporary.replace(path)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _bytes_written() -> int | None:
    """Bytes that this process caused to be written to disks; None if the kernel does not count them.

    write_bytes of proc_pid_io(5): whole 4 KiB pages, without memory file systems. The wear of an SD card is
    higher: file system metadata and erase blocks come on top.
    """
    try:
        counters = Path("/proc/self/io").read_text(encoding="utf-8")
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
