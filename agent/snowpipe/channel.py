"""One channel into one pipe: open, append, read the committed offset token."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.errors import AuthError, ChannelLostError, SnowpipeError, TransientError
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
        self._session = ""  # of the server that answered last, which is sent back
        self._status_name = name  # as open() returned it: a bulk status compares its case

    @property
    def is_open(self) -> bool:
        """False until open() succeeded, and after forget()."""
        return self._continuation_token is not None

    def open(
        self, *, offset_token: str | None = None, fail_on_uncommitted_rows: bool = False
    ) -> ChannelStatus:
        """Open or reopen; the server discards what it had buffered and not committed.

        `offset_token` sets the position of a channel that was deleted meanwhile. With
        `fail_on_uncommitted_rows` nothing is discarded: if there is anything, TransientError with the
        code refusal.UNCOMMITTED_DATA is raised; after this and any other TransientError or AuthError an open
        channel is still open. Raises ChannelLostError if the channel exists but cannot take rows.
        """
        before = self._continuation_token, self._session
        self.forget()
        request = wire.open_channel(
            self._pipe, self.name, offset_token, fail_on_uncommitted_rows=fail_on_uncommitted_rows
        )
        try:
            opened = wire.parse_opened(self._client.call(request))
        except (TransientError, AuthError):
            if fail_on_uncommitted_rows:
                self._continuation_token, self._session = before
            raise
        self._check(opened.status)
        self._continuation_token = opened.continuation_token
        spelling = opened.status.name
        self._status_name = spelling if spelling.lower() == self.name.lower() else self.name
        return opened.status

    def append(self, append: Append) -> None:
        """Send rows. On return the server has buffered them, but not committed.

        If their compression is refused on the way, TransientError is raised and the next try with the same
        object has another one: new bytes, a new request id.
        """
        if self._continuation_token is None:
            raise ChannelLostError(f"the channel {self.name} is not open")
        if append.body.encoding != self._client.encoding:
            append.body = wire.recompressed(append.body, self._client.encoding)
            append.tries = RequestAttempt()
        request = wire.append(
            self._pipe,
            self.name,
            append.body,
            (append.first_token, append.last_token),
            self._continuation_token,
            session=self._session,
        )
        try:
            reply = self._client.call(request, append.tries)
        except SnowpipeError as error:
            if self._client.encoding_refused(error):
                raise TransientError(
                    str(error),
                    hint=error.hint,
                    status=error.status,
                    code=error.code,
                    from_snowflake=error.from_snowflake,
                    is_of_account=error.is_of_account,
                    retry_after=error.retry_after,
                ) from error
            raise
        self._continuation_token = wire.parse_appended(reply)
        self._session = wire.session_of(reply)

    def status(self) -> ChannelStatus:
        """The committed token and error count. Raises ChannelLostError if the channel is no longer valid."""
        name = self._status_name
        status = wire.parse_channel_status(self._client.call(wire.channel_status(self._pipe, name)), name)
        self._check(status)
        return status

    def compress(self, rows: list[bytes]) -> CompressedRows:
        """Rows in the compression that is accepted at present."""
        return wire.compress(rows, self._client.encoding)

    def drop(self) -> None:
        """Delete the channel with its offset token. Raises SnowpipeError."""
        self.forget()
        self._client.call(wire.drop_channel(self._pipe, self.name))

    def forget(self) -> None:
        """Drop the position: open() must be called next."""
        self._continuation_token = None
        self._session = ""

    def _check(self, status: ChannelStatus) -> None:
        if not status.healthy:
            raise ChannelLostError(
                f"the channel {self.name} is in state {status.code or 'unreadable'}",
                code=status.code,
                from_snowflake=True,
                hint="it is reopened; if that does not help: SHOW PIPES, SHOW TABLES, SHOW GRANTS",
            )
