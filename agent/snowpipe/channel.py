"""One channel into one pipe: open, append, ask how far it has committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.errors import ChannelLostError
from agent.snowpipe import wire
from agent.snowpipe.client import Client, RequestAttempt
from agent.snowpipe.wire import ChannelStatus, CompressedRows, PipeName


@dataclass(slots=True)
class Append:
    """Rows on their way. A retry is the same object: same bytes, same request id, one try more."""

    body: CompressedRows
    first_token: str
    last_token: str
    tries: RequestAttempt = field(default_factory=RequestAttempt)


class Channel:
    """Our end of a named channel. Whoever opens it fences every earlier writer.

    After any error but TransientError and AuthError the position is in doubt: forget(), open() again
    and resume after the committed token. The server does not de-duplicate on tokens; this does.
    """

    def __init__(self, account: Client, pipe: PipeName, name: str) -> None:
        self._account = account
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
        Raises ChannelLostError when the channel answers but cannot take rows.
        """
        self.forget()
        request = wire.open_channel(self._pipe, self.name, offset_token)
        opened = wire.parse_opened(self._account.call(request, RequestAttempt()))
        self._check(opened.status)
        self._continuation_token = opened.continuation_token
        return opened.status

    def append(self, append: Append) -> None:
        """Send rows; when it returns the server has buffered them, which is not yet committed."""
        if self._continuation_token is None:
            raise ChannelLostError(f"the channel {self.name} is not open")
        request = wire.append(
            self._pipe,
            self.name,
            append.body,
            (append.first_token, append.last_token),
            self._continuation_token,
        )
        reply = self._account.call(request, append.tries)
        self._continuation_token = wire.parse_appended(reply)

    def status(self) -> ChannelStatus:
        """How far the server has committed. Raises ChannelLostError when the channel is no longer good."""
        reply = self._account.call(wire.channel_status(self._pipe, self.name), RequestAttempt())
        status = wire.parse_channel_status(reply, self.name)
        self._check(status)
        return status

    def forget(self) -> None:
        """Drop the position: the next thing must be open()."""
        self._continuation_token = None

    def _check(self, status: ChannelStatus) -> None:
        if not status.healthy:
            raise ChannelLostError(
                f"the channel {self.name} is in state {status.code}",
                code=status.code,
                hint="it is opened again; if that does not help: SHOW PIPES, SHOW TABLES, SHOW GRANTS",
            )
