"""One channel into one pipe: open, append, read the committed offset token."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.errors import ChannelLostError
from agent.snowpipe import wire
from agent.snowpipe.client import Client, RequestAttempt
from agent.snowpipe.wire import ChannelStatus, CompressedRows, PipeName


@dataclass(slots=True)
class Append:
    """One append. A retry is the same object: same bytes, same request id, next retry count."""

    body: CompressedRows
    first_token: str
    last_token: str
    tries: RequestAttempt = field(default_factory=RequestAttempt)


class Channel:
    """The client side of a named channel. Opening it fences every earlier writer.

    After any error but TransientError and AuthError the position is unknown: call forget() and open(),
    and resume after the committed token. The server does not de-duplicate rows by their tokens.
    """

    def __init__(self, client: Client, pipe: PipeName, name: str) -> None:
        self._client = client
        self._pipe = pipe
        self.name = name
        self._continuation_token: str | None = None

    @property
    def is_open(self) -> bool:
        """False until open() succeeded, and after forget()."""
        return self._continuation_token is not None

    def open(self, *, offset_token: str | None = None) -> ChannelStatus:
        """Open or reopen; the server discards what it had buffered and not committed.

        `offset_token` sets the position of a channel that was deleted meanwhile.
        Raises ChannelLostError if the channel exists but cannot take rows.
        """
        self.forget()
        request = wire.open_channel(self._pipe, self.name, offset_token)
        opened = wire.parse_opened(self._client.call(request, RequestAttempt()))
        self._check(opened.status)
        self._continuation_token = opened.continuation_token
        return opened.status

    def append(self, append: Append) -> None:
        """Send rows. On return the server has buffered them, but not committed."""
        if self._continuation_token is None:
            raise ChannelLostError(f"the channel {self.name} is not open")
        request = wire.append(
            self._pipe,
            self.name,
            append.body,
            (append.first_token, append.last_token),
            self._continuation_token,
        )
        reply = self._client.call(request, append.tries)
        self._continuation_token = wire.parse_appended(reply)

    def status(self) -> ChannelStatus:
        """The committed token and error count. Raises ChannelLostError if the channel is no longer valid."""
        reply = self._client.call(wire.channel_status(self._pipe, self.name), RequestAttempt())
        status = wire.parse_channel_status(reply, self.name)
        self._check(status)
        return status

    def forget(self) -> None:
        """Drop the position: open() must be called next."""
        self._continuation_token = None

    def _check(self, status: ChannelStatus) -> None:
        if not status.healthy:
            raise ChannelLostError(
                f"the channel {self.name} is in state {status.code}",
                code=status.code,
                hint="it is reopened; if that does not help: SHOW PIPES, SHOW TABLES, SHOW GRANTS",
            )
