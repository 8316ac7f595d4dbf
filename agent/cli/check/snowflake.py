"""What must be right between this machine and Snowflake: name, TLS, key-pair token, role, pipe, channel."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from agent.cli.check.network import check_certificate, check_proxy, resolve_host
from agent.cli.check.runner import Step
from agent.cli.console import Finding
from agent.cli.key.alter_user import compare, describe, set_key
from agent.clock.system_clock import TOLERATED_S, off
from agent.errors import OutcomeUnknownError, SnowpipeError
from agent.keys.keypair import KeyPair
from agent.keys.lookup import load_key
from agent.service.snowflake import events_pipe_name, make_client, make_http, pipe_name
from agent.settings import Settings
from agent.snowpipe.channel import Channel
from agent.snowpipe.client import Client
from agent.snowpipe.connection import Dialer
from agent.snowpipe.http import Http
from agent.snowpipe.refusal import CODES_WITH_HINT
from agent.snowpipe.server_clock import ServerClock
from agent.snowpipe.wire import PipeName, channel_status
from agent.sql.names import identifier, qualified, user_identifier

# For 390144 the SQL here is more precise: it has the key's fingerprint.
_OWN_HINT = CODES_WITH_HINT - {"390144"}
_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 400, 401, 403, 404

# As many bytes as a request with a backlog has. They only ask for channels that do not exist.
_LARGE_NAMES, _NAME_CHARACTERS = 520, 245
# The slowest rate that the deadline of a request allows for: see http.py.
_SLOW_BYTES_PER_S = 20_000

_MAKE_PIPE = "to make it: badge-agent sql, which can be run again"
_ASK_ACCOUNT = "SELECT CURRENT_ORGANIZATION_NAME() || '-' || CURRENT_ACCOUNT_NAME();"
_NO_ANSWER_HINT = "is a proxy, a firewall or a captive portal in between? try again: badge-agent check"
_LARGE_HINT = (
    "the agent divides its requests, and a backlog takes longer; check the MTU, and each device in between"
)
_SLOW_HINT = (
    "the agent waits and divides its requests; check the signal and the data plan of a mobile network"
)
_ANY_HINT = "is Snowflake well? https://status.snowflake.com; then, in a few minutes: badge-agent check"


def snowflake_steps(settings: Settings) -> list[Step]:
    """The steps to an open channel, each needing the one before."""
    connection = _Connection(settings)
    return [
        Step("connection settings", connection.prepare),
        Step("host name", connection.host_name, needs=("connection settings",)),
        Step("TLS", connection.tls, needs=("host name",)),
        Step("JWT", connection.jwt, needs=("key file", "TLS")),
        Step("ingest host", connection.ingest_host, needs=("JWT",)),
        Step("scoped token", connection.scoped_token, needs=("ingest host",)),
        Step("channel", connection.channel, needs=("scoped token",)),
        Step("door events", connection.events_channel, needs=("channel",)),
        Step("large request", connection.large_request, needs=("channel",)),
    ]


class _Connection:
    """The requests by which the agent reaches its channel, one step each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._snowflake = settings.snowflake
        self._client: Client | None = None
        self._http: Http | None = None
        self._control = urlsplit(settings.snowflake.url)

    def prepare(self) -> Iterator[Finding]:
        """Load the certificate authorities, name the proxy."""
        self._http = make_http(self._settings)
        self._dialer.context()  # raises ConfigError for an unusable ca_file
        yield from check_proxy(self._dialer)

    def host_name(self) -> Iterator[Finding]:
        """Resolve the account's host, or the proxy's."""
        yield from resolve_host("host name", self._control, self._dialer)

    def tls(self) -> Iterator[Finding]:
        """Connect to the account's host, through the proxy if there is one."""
        yield from check_certificate("TLS", self._control, self._dialer)

    def jwt(self) -> Iterator[Finding]:
        """Request the ingest host: Snowflake checks the user and the key of the JWT."""
        key = load_key(self._settings)
        assert self._http is not None  # noqa: S101 - for the type checker: this step needs prepare()
        self._client = make_client(self._settings, self._http, key=key)
        try:
            host = self._client.ingest_host()
        except SnowpipeError as error:
            yield from _skew(self._client.server_clock)
            self._advise(error, self._sql_on_key(key))
            raise
        until = datetime.fromtimestamp(self._client.jwt.expires_at or 0, UTC)
        yield Finding("JWT", "ok", f"accepted, valid until {until:%Y-%m-%d %H:%M} UTC; rows go to {host}")
        yield from _skew(self._client.server_clock)

    def ingest_host(self) -> Iterator[Finding]:
        """Reach the ingest host: a firewall may allow the account's host only."""
        control = self._control
        host = self._opened().ingest_host()
        port = f":{control.port}" if control.port and ":" not in host else ""
        ingest = urlsplit(f"{control.scheme}://{host}{port}")
        if (ingest.hostname, ingest.port) == (control.hostname, control.port):
            yield Finding("ingest host", "ok", f"{host}, as above")
            return
        yield from resolve_host("ingest host", ingest, self._dialer)
        yield from check_certificate("ingest host", ingest, self._dialer)

    def scoped_token(self) -> Iterator[Finding]:
        """Exchange the JWT for a scoped token: Snowflake checks the role."""
        try:
            token = self._opened().scoped.get()
        except SnowpipeError as error:
            self._advise(error, dict.fromkeys((_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN), self._sql_on_role()))
            raise
        if self._snowflake.role is not None and self._opened().uses_default_role:
            text = f"the account refuses the role {self._snowflake.role} in a token: the default role is used"
            yield Finding("scoped token", "warning", text, self._sql_on_role())
            return
        minutes = (token.expires_at - token.issued_at) / 60
        yield Finding("scoped token", "ok", f"issued for {self._role_words()}, {minutes:.0f} minutes")

    def channel(self) -> Iterator[Finding]:
        """Open a separate channel, and drop it: opening the agent's own would fence the running agent."""
        try:
            text = self._open_in(pipe_name(self._settings))
        except SnowpipeError as error:
            pipe = self._snowflake.pipe
            self._advise(error, {_FORBIDDEN: self._sql_on_role(), _NOT_FOUND: self._sql_on_pipe(pipe)})
            raise
        yield Finding("channel", "ok", text)

    def events_channel(self) -> Iterator[Finding]:
        """As channel(), in the pipe for door events; swipes do not need it."""
        try:
            text = self._open_in(events_pipe_name(self._settings))
        except SnowpipeError as error:
            text = f"none are delivered, only swipes: {error}"
            hint = f"{self._sql_on_pipe(self._snowflake.events_pipe)}\n{_MAKE_PIPE}"
            yield Finding("door events", "warning", text, hint)
        else:
            yield Finding("door events", "ok", text)

    def large_request(self) -> Iterator[Finding]:
        """Send a request as large as one with a backlog: a way may carry small ones only."""
        names = (
            f"{self._settings.agent.id[:32]}-check-{n}-".ljust(_NAME_CHARACTERS, "x")
            for n in range(_LARGE_NAMES)
        )
        request = channel_status(pipe_name(self._settings), *names)
        size, begun_s = len(request.body), time.monotonic()
        try:
            self._opened().call(request)
        except SnowpipeError as error:
            # A refusal by Snowflake itself shows that the request arrived.
            if not error.from_snowflake:
                text = f"{size // 1000} kB did not get through, smaller requests do: {error}"
                yield Finding("large request", "warning", text, _LARGE_HINT)
                return
        took_s = time.monotonic() - begun_s
        text = f"{size // 1000} kB in {took_s:.1f} s"
        if size < took_s * _SLOW_BYTES_PER_S:
            yield Finding("large request", "warning", f"{text}: a backlog takes long", _SLOW_HINT)
        else:
            yield Finding("large request", "ok", text)

    def _open_in(self, pipe: PipeName) -> str:
        """Open the channel in a pipe and drop it again. Raises SnowpipeError."""
        name = f"{self._settings.agent.id}-check"
        channel = Channel(self._opened(), pipe, name)
        channel.open()
        # A pipe has room for 2,000 channels; what cannot be dropped now is deleted after 30 days.
        with contextlib.suppress(SnowpipeError):
            channel.drop()
        return f"{name} opens in {pipe.database}.{pipe.schema}.{pipe.pipe}"

    @property
    def _dialer(self) -> Dialer:
        assert self._http is not None  # noqa: S101 - for the type checker: these steps need prepare()
        return self._http.dialer

    def _opened(self) -> Client:
        assert self._client is not None  # noqa: S101 - for the type checker: these steps need jwt()
        return self._client

    def _advise(self, error: SnowpipeError, hints: Mapping[int, str]) -> None:
        """The hint of Snowflake's code with the names filled in, else the SQL for the HTTP status."""
        if isinstance(error, OutcomeUnknownError):
            error.hint = _NO_ANSWER_HINT
        elif error.status is None or error.code in _OWN_HINT or not error.from_snowflake:
            error.hint = error.hint or hints.get(error.status or 0, _ANY_HINT)
        else:
            details = error.hint.partition("; details: ")[2]
            error.hint = hints.get(error.status, _ANY_HINT) + (f"\n{details}" if details else "")
        snowflake = self._snowflake
        names = {
            "<user>": user_identifier(snowflake.user),
            "<role>": identifier(snowflake.role) if snowflake.role else "<the default role>",
            "<pipe>": qualified(snowflake.database, snowflake.schema, snowflake.pipe),
            "<database>.<schema>": qualified(snowflake.database, snowflake.schema),
            "<url>": snowflake.url,
        }
        for placeholder, name in names.items():
            error.hint = error.hint.replace(placeholder, name)

    # --- the SQL that shows the cause of a refusal, names filled in ------------------------------

    def _sql_on_key(self, key: KeyPair) -> dict[int, str]:
        user, account = self._snowflake.user, self._snowflake.account
        unauthorized = (
            f"{compare(user, key)}\n"
            f"if it is another: {set_key(user, key)}\n"
            f"{_ASK_ACCOUNT}  -- must be {account}\n"
            "timedatectl  (a token holds for an hour: this machine's clock must be right)"
        )
        host = urlsplit(self._snowflake.url).netloc
        return {
            _UNAUTHORIZED: unauthorized,
            _FORBIDDEN: self._sql_on_role(),
            _NOT_FOUND: f"{_ASK_ACCOUNT}  -- must be {account}; {host} knows no such account",
        }

    def _sql_on_role(self) -> str:
        user, role = self._snowflake.user, self._snowflake.role
        if role is None:
            return (
                f"{describe(user)}  -- DEFAULT_ROLE is the one that counts: SHOW GRANTS TO ROLE <that role>;"
            )
        return (
            f"SHOW GRANTS TO ROLE {identifier(role)};"
            "  -- needs USAGE on database and schema, INSERT on the table, OPERATE on the pipe\n"
            f"SHOW GRANTS TO USER {user_identifier(user)};  -- needs {role}"
        )

    def _sql_on_pipe(self, pipe: str) -> str:
        schema = qualified(self._snowflake.database, self._snowflake.schema)
        return f"SHOW PIPES IN SCHEMA {schema};  -- must list {pipe}, with {self._role_words()}"

    def _role_words(self) -> str:
        role = self._snowflake.role
        return f"role {role}" if role else f"the default role of {self._snowflake.user}"


def _skew(server_clock: ServerClock) -> Iterator[Finding]:
    """The difference of this machine's clock and the server's; none before an answer."""
    ahead_s = server_clock.ahead_s()
    if ahead_s is None:
        return
    if abs(ahead_s) <= TOLERATED_S:
        yield Finding("server clock", "ok", "agrees with this machine's")
        return
    text = f"this machine's clock is {off(ahead_s)}; tokens are signed with Snowflake's time"
    yield Finding("server clock", "warning", text, "sudo timedatectl set-ntp true; timedatectl")
