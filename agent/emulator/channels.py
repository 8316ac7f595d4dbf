"""The channels of the service: sequencers, continuation tokens, status; no HTTP, no disk."""

from __future__ import annotations

import math
import re
import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from agent.emulator.database import ChannelRecord
from agent.emulator.limits import (
    BYTES_PER_SECOND,
    CHANNELS_PER_PIPE,
    REQUESTS_PER_SECOND,
    Bucket,
    Peak,
)
from agent.emulator.responses import SUCCESS, RefusalError, unknown_channel, unknown_pipe
from agent.emulator.row_loader import DEFAULT_PIPE

# At-least-once mode has one channel per pipe, which is never opened.
ELASTIC = "ELASTIC"


@dataclass(slots=True)
class Batch:
    """The rows of one append, buffered: answered 200, not yet committed."""

    channel: Channel
    body: bytes
    rows: int
    offset_token: str | None
    due: float  # seconds, monotonic
    discarded: bool = False


@dataclass(slots=True)
class Invalid:
    """Why a channel is not SUCCESS: its code, the answer to appends, how many reopens do not heal it."""

    code: str
    appends_accepted: bool
    reopens: int


@dataclass(slots=True, eq=False)
class Channel:
    """One channel: `record` is committed and persistent, everything else is lost in a restart."""

    record: ChannelRecord
    continuation_token: str | None = None  # None until it is opened
    invalid: Invalid | None = None
    buffered: deque[Batch] = field(default_factory=deque)
    requests: Bucket = field(default_factory=lambda: Bucket(REQUESTS_PER_SECOND))
    bytes: Bucket = field(default_factory=lambda: Bucket(BYTES_PER_SECOND))
    request_peak: Peak = field(default_factory=Peak)
    byte_peak: Peak = field(default_factory=Peak)
    appends: int = 0
    last_append_ns: int | None = None
    session: str = ""  # of the header X-Snowflake-Session
    _errors: deque[tuple[float, ChannelRecord]] = field(default_factory=deque)  # each change of the count
    _nonce: str = ""
    _row_sequencer: int = 0
    _changing: bool = False

    @property
    def status_code(self) -> str:
        """SUCCESS, or the code of what makes it invalid."""
        return SUCCESS if self.invalid is None else self.invalid.code

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Exclude other opens and drops of the channel. Raises RefusalError (409).

        Earlier writers are fenced immediately: rows they send while the buffer is being discarded
        must not be buffered.
        """
        if self._changing:
            raise RefusalError(
                409,
                "ERR_OPEN_CHANNEL_IN_PROGRESS",
                "The channel is being opened or dropped by another request.",
            )
        self._changing = True
        self.continuation_token = None
        try:
            yield
        finally:
            self._changing = False

    def opened(self, offset_token: str | None) -> str:
        """A new client sequencer, an offset token if one is to be set; the first continuation token."""
        if self.invalid is not None:
            self.invalid.reopens -= 1
            if self.invalid.reopens < 0:
                self.invalid = None
        self.record = replace(
            self.record,
            client_sequencer=self.record.client_sequencer + 1,
            offset_token=self.record.offset_token if offset_token is None else offset_token,
        )
        # Random, so that a token issued before a kill is never valid after it.
        self._nonce = secrets.token_hex(4)
        self._row_sequencer = 0
        self.session = secrets.token_hex(16)
        return self._next_token()

    def check_continuation(self, token: str) -> None:
        """The token must be the last one given out. Raises RefusalError (400)."""
        if token != self.continuation_token:
            raise RefusalError(
                400,
                "STALE_CONTINUATION_TOKEN_SEQUENCER",
                "The continuation token is stale: used before, or the channel was reopened.",
            )

    def advance(self) -> str:
        """Consume the continuation token and return the next one."""
        self._row_sequencer += 1
        return self._next_token()

    def commit(self, record: ChannelRecord, now: float) -> None:
        """Take what a commit at `now` (seconds, monotonic) has changed."""
        if record.rows_error_count != self.record.rows_error_count:
            self._errors.append((now, record))
        self.record = record

    def _errors_known(self, by: float) -> ChannelRecord:
        """The last record whose error count had changed by then; the counts of the others appear later."""
        known = ChannelRecord(self.record.pipe_name, self.record.channel_name, self.record.created_on_ms)
        if not self._errors:
            return self.record
        for at, record in self._errors:
            if at <= by:
                known = record
        return known

    def status(self, database: str, schema: str, errors_by: float = math.inf) -> dict[str, object]:
        """The object `channel_status`, with both spellings of the members that clients read.

        Errors are those of commits up to `errors_by` (seconds, monotonic).
        """
        record, errors = self.record, self._errors_known(errors_by)
        return {
            "database_name": database,
            "schema_name": schema,
            "pipe_name": record.pipe_name,
            "channel_name": record.channel_name,
            "channel_status_code": self.status_code,
            "last_committed_offset_token": record.offset_token,
            "created_on_ms": record.created_on_ms,
            "rows_inserted": record.rows_inserted,
            "rows_parsed": record.rows_inserted + errors.rows_error_count,
            "rows_error_count": errors.rows_error_count,
            "rows_errors": errors.rows_error_count,
            "last_error_offset_upper_bound": errors.last_error_offset,
            "last_error_message": errors.last_error_message,
            "last_error_timestamp": errors.last_error_ms,
            "last_error_timestamp_ms": errors.last_error_ms,
            "snowflake_avg_processing_latency_ms": None,
        }

    def _next_token(self) -> str:
        token = f"{self.record.client_sequencer}_{self._row_sequencer}_{self._nonce}"
        self.continuation_token = token
        return token


_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*", re.ASCII)


def stored(name: str) -> str:
    """A name as the service stores it: in upper case unless SQL would need quotes for it."""
    return name.upper() if _PLAIN.fullmatch(name) else name


def is_same(name: str, stored_name: str) -> bool:
    """Whether a name from a URI is that of a stored object: exactly in quotes, else in any case."""
    if len(name) > 1 and name.startswith('"') and name.endswith('"'):
        return name[1:-1].replace('""', '"') == stored_name
    return name.upper() == stored_name.upper()


class Channels:
    """Every channel of every pipe, the table's default pipe among them.

    Names are case-insensitive, as in the URI.
    """

    def __init__(self, pipes: Iterable[str], records: Iterable[ChannelRecord]) -> None:
        self.errors_late_s = 0.0
        self._pipes: dict[str, dict[str, Channel]] = {stored(pipe): {} for pipe in (*pipes, DEFAULT_PIPE)}
        for record in records:
            # A pipe not configured at this start keeps its channels in the file, unused.
            if record.pipe_name in self._pipes:
                self._pipes[record.pipe_name][record.channel_name.upper()] = Channel(record)

    def __iter__(self) -> Iterator[Channel]:
        for channels in self._pipes.values():
            yield from channels.values()

    def pipe(self, name: str) -> str:
        """The pipe's own spelling; in quotes a name counts as it is. Raises RefusalError (404)."""
        for pipe in self._pipes:
            if is_same(name, pipe):
                return pipe
        raise unknown_pipe()

    def find(self, pipe: str, name: str) -> Channel:
        """An existing channel. Raises RefusalError (404)."""
        channel = self._pipes[self.pipe(pipe)].get(name.upper())
        if channel is None:
            raise unknown_channel()
        return channel

    def named_exactly(self, pipe: str, name: str) -> Channel | None:
        """The channel of exactly this name, for bulk status, which is case-sensitive; else None."""
        channel = self._pipes[self.pipe(pipe)].get(name.upper())
        return channel if channel is not None and channel.record.channel_name == name else None

    def find_or_make(self, pipe: str, name: str, created_on_ms: int) -> Channel:
        """The channel, created if missing. Raises RefusalError (404, 400 if the pipe is full)."""
        channels = self._pipes[self.pipe(pipe)]
        channel = channels.get(name.upper())
        if channel is None:
            doors = sum(key != ELASTIC for key in channels)
            if doors >= CHANNELS_PER_PIPE and name != ELASTIC:
                raise RefusalError(
                    400,
                    "ERR_CHANNEL_LIMIT_EXCEEDED",
                    f"The pipe has {CHANNELS_PER_PIPE} channels; drop some or use another pipe.",
                )
            channel = Channel(ChannelRecord(self.pipe(pipe), name, created_on_ms))
            channels[name.upper()] = channel
        return channel

    def remove(self, channel: Channel) -> None:
        """Forget a channel and its offset token."""
        self._pipes[channel.record.pipe_name].pop(channel.record.channel_name.upper(), None)
