"""From buffered to committed: a lag after the 200, one transaction for rows, counters and offset token."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from agent.emulator import event_loader, row_loader
from agent.emulator.channels import Batch, Channel, stored
from agent.emulator.database import ChannelRecord, Database
from agent.emulator.responses import RefusalError

# One transaction: large enough to amortise its fixed cost, small enough that its rows stay in
# the processor's cache and an open that follows does not wait long.
_COMMIT_BYTES = 2 * 1024 * 1024

# Bound on the memory of uncommitted bodies, all channels together: six seconds of the fastest drain.
_MAX_BUFFERED_BYTES = 256 * 1024 * 1024

_Result = TypeVar("_Result")


class Commits:
    """The buffer and its committer. Everything but the work in the database thread runs on the loop."""

    def __init__(
        self,
        database: Database,
        worker: ThreadPoolExecutor,
        *,
        lag_seconds: float,
        events_pipes: Iterable[str] = (),
    ) -> None:
        self._database = database
        self._worker = worker
        self._lag_seconds = lag_seconds
        self._events_pipes = frozenset(map(stored, events_pipes))
        self._waiting: deque[Batch] = deque()
        self._buffered_bytes = 0
        self._committing: list[Batch] = []
        self._changed = asyncio.Event()
        self._settled = asyncio.Condition()
        self.stalled = False
        self.rejects: row_loader.Rejects | None = None

    async def room_for(self, body: bytes) -> None:
        """Wait until the body fits into the buffer. Raises RefusalError (503) while commits are stalled."""
        while self._buffered_bytes > 0 and self._buffered_bytes + len(body) > _MAX_BUFFERED_BYTES:
            if self.stalled:
                raise RefusalError(
                    503,
                    "ERR_GENERAL_EXCEPTION_RETRY_REQUEST",
                    "Too much waits for its commit; try again later.",
                )
            async with self._settled:
                await self._settled.wait()

    def buffer(self, channel: Channel, body: bytes, offset_token: str | None) -> None:
        """Buffer a body for commit."""
        due = time.monotonic() + self._lag_seconds
        batch = Batch(channel, body, row_loader.count(body), offset_token, due)
        channel.buffered.append(batch)
        self._waiting.append(batch)
        self._buffered_bytes += len(body)
        self.wake()

    def wake(self) -> None:
        """Check again what is due: a batch was buffered, or `stalled` changed."""
        self._changed.set()

    async def discard(self, channel: Channel) -> None:
        """Discard the channel's buffer; returns once none of it can be committed any more."""
        for batch in channel.buffered:
            batch.discarded = True
        channel.buffered.clear()
        self.wake()
        async with self._settled:
            await self._settled.wait_for(lambda: not self._in_flight(channel))

    def busy(self, channel: Channel) -> bool:
        """Whether the channel has rows that are not committed."""
        return bool(channel.buffered) or self._in_flight(channel)

    def uncommitted_rows(self, channel: Channel) -> int:
        """Rows of the channel that were answered 200 and are not committed."""
        in_flight = (batch for batch in self._committing if batch.channel is channel)
        return sum(batch.rows for batch in (*channel.buffered, *in_flight))

    async def in_database(self, work: Callable[[], _Result]) -> _Result:
        """Run in the database thread, after its current work."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def run(self) -> None:
        """Commit what is due until cancelled. Raises AgentError if the disk fails."""
        while True:
            self._changed.clear()
            batches = self._due(time.monotonic())
            if batches:
                await self._commit(batches)
            else:
                await self._wait()

    def _in_flight(self, channel: Channel) -> bool:
        return any(batch.channel is channel for batch in self._committing)

    async def _wait(self) -> None:
        timeout = None
        if self._waiting and not self.stalled:
            timeout = max(0.0, self._waiting[0].due - time.monotonic())
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), timeout)

    def _due(self, now: float) -> list[Batch]:
        batches: list[Batch] = []
        size = 0
        while self._waiting and size < _COMMIT_BYTES:
            batch = self._waiting[0]
            if not batch.discarded:
                if self.stalled or batch.due > now:
                    break
                batches.append(batch)
                batch.channel.buffered.popleft()
                size += len(batch.body)
            self._waiting.popleft()
            self._buffered_bytes -= len(batch.body)
        return batches

    async def _commit(self, batches: list[Batch]) -> None:
        self._committing = batches
        records = await self.in_database(lambda: self._store(batches))
        for channel, record in records.items():
            channel.commit(record, time.monotonic())
        async with self._settled:
            self._committing = []
            self._settled.notify_all()

    def _store(self, batches: list[Batch]) -> dict[Channel, ChannelRecord]:
        # CURRENT_TIMESTAMP is one value for a whole commit, as it is in the service's pipe.
        now = datetime.now(UTC)
        ingestion_time = now.replace(tzinfo=None).isoformat(" ", "microseconds")
        rows: list[row_loader.Row] = []
        events: list[row_loader.Row] = []
        records: dict[Channel, ChannelRecord] = {}
        for batch in batches:
            record = records.get(batch.channel, batch.channel.record)
            origin = (ingestion_time, record.pipe_name, record.channel_name, batch.offset_token)
            is_events = record.pipe_name in self._events_pipes
            load, table = (event_loader.load, events) if is_events else (row_loader.load, rows)
            loaded = load(batch.body, origin, self.rejects)
            table += loaded.rows
            records[batch.channel] = _after(record, batch, loaded, now)
        self._database.commit(rows, records.values(), events)
        return records


def _after(record: ChannelRecord, batch: Batch, loaded: row_loader.Loaded, now: datetime) -> ChannelRecord:
    record = replace(
        record,
        offset_token=record.offset_token if batch.offset_token is None else batch.offset_token,
        rows_inserted=record.rows_inserted + len(loaded.rows),
        rows_error_count=record.rows_error_count + loaded.errors,
    )
    if loaded.last_error is None:
        return record
    return replace(
        record,
        last_error_offset=batch.offset_token,
        last_error_message=loaded.last_error,
        last_error_ms=int(now.timestamp() * 1000),
    )
