"""The authorised way into one Snowflake account: ingest host, tokens, and what to renew when refused."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agent.errors import AuthError, KeyFileError, NotPermittedError, TransientError, UnreachableError
from agent.keys.keypair import KeyPair
from agent.snowpipe import wire
from agent.snowpipe.account_url import is_loopback
from agent.snowpipe.http import Http
from agent.snowpipe.jwt import CachedToken, Token, mint, read_expiry
from agent.snowpipe.server_clock import ServerClock
from agent.snowpipe.wire import Reply, Request

_log = logging.getLogger(__name__)

_FORBIDDEN = 403


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who we are to Snowflake, and where its account answers."""

    account: str
    user: str
    role: str | None
    control_url: str


@dataclass(slots=True)
class RequestAttempt:
    """The identity of one request across its retries: the id stays, the count rises."""

    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    count: int = 0


class Client:
    """Sends requests as one user. Tokens may be asked for from several threads, requests from one."""

    def __init__(
        self,
        http: Http,
        identity: ClientIdentity,
        *,
        load_key: Callable[[], KeyPair],
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
        may_lack_key: bool = False,
    ) -> None:
        """Reads the key. Raises KeyFileError or NotPermittedError when it cannot be used.

        With `may_lack_key` that is the failure of each call instead, an AuthError, until it can.
        `monotonic_s` is best the boot-time clock: a token grows old in a suspend, too.
        """
        self._http = http
        self._identity = identity
        self._load_key = load_key
        self.server_clock = ServerClock(wall_s, monotonic_s)
        self._key: KeyPair | None = None
        try:
            self._key = load_key()
        except (KeyFileError, NotPermittedError):
            if not may_lack_key:
                raise
        self._ingest_host: str | None = None
        self.jwt = CachedToken(self._mint, age_clock=monotonic_s)
        self.scoped = CachedToken(self._fetch_scoped, age_clock=monotonic_s)
        self._used: dict[CachedToken, Token] = {}

    @property
    def key(self) -> KeyPair | None:
        """The key that signs from now on; None while there is none that can be used."""
        return self._key

    def reload_key(self) -> KeyPair:
        """Read the key again, and renew every token with it; from any thread. The key as it is now.

        Raises KeyFileError or NotPermittedError, and goes on with the key it has.
        """
        self._key = key = self._load_key()
        self.jwt.discard()
        self.scoped.discard()
        return key

    def call(self, request: Request, tries: RequestAttempt) -> Reply:
        """Send and return a 2xx answer; every other outcome is raised as the error it stands for.

        A refusal of the credentials renews them, one after the other, before it is raised: the
        scoped token, then the JWT, then the key is read again, because an administrator may have
        replaced it. A 403 is about privileges, so only the scoped token is renewed for it.
        """
        for renew in (self._renew_scoped, self._renew_jwt, self._renew_key):
            try:
                return self._send(request, tries)
            except AuthError as error:
                tries.count += 1
                renew()
                if error.status == _FORBIDDEN:
                    break
        try:
            return self._send(request, tries)
        except AuthError:
            tries.count += 1  # the caller may come again with the same tries
            raise

    def _send(self, request: Request, tries: RequestAttempt) -> Reply:
        if request.plane == "ingest":
            base, cache, token_type = self._ingest_url(), self.scoped, "OAUTH"
        else:
            base, cache, token_type = self._identity.control_url, self.jwt, "KEYPAIR_JWT"
        token = self._used[cache] = cache.get()
        numbered = dataclasses.replace(
            request,
            query=(*request.query, ("requestId", tries.request_id), ("retryCount", str(tries.count))),
        )
        asked_s = self.server_clock.boot_s()
        try:
            reply = self._http.send(base, numbered, token=token.text, token_type=token_type)
        except UnreachableError:
            self._ingest_host = None  # the account may have moved: ask again where it takes rows
            raise
        # Before anything is renewed: a token may have been refused because our clock is wrong.
        self.server_clock.heard(reply.headers, asked_s)
        if not 200 <= reply.status < 300:  # noqa: PLR2004 - the class of success, RFC 9110 15.3
            raise wire.refusal(request, reply)
        return reply

    def ingest_host(self) -> str:
        """The host that takes rows, asked for once."""
        if self._ingest_host is None:
            self._ingest_host = wire.parse_hostname(self._send(wire.hostname(), RequestAttempt()))
        return self._ingest_host

    def _ingest_url(self) -> str:
        control = urlsplit(self._identity.control_url)
        host = self.ingest_host()
        # A host without a port is reached as the account is: same scheme, same port.
        if ":" not in host and control.port is not None:
            host = f"{host}:{control.port}"
        if control.scheme == "http" and not is_loopback(host.partition(":")[0]):
            raise TransientError(
                f"the account names the ingest host {host}, where plain http would send tokens in the clear",
                hint="set [snowflake] url to an https address",
            )
        return f"{control.scheme}://{host}"

    def _mint(self) -> Token:
        if self._key is None:
            with _as_refused():
                self._key = self._load_key()
        token = mint(self._key, self._identity.account, self._identity.user, self.server_clock.now_s())
        _log.debug("minted a JWT, valid until %d", token.expires_at)
        return token

    def _fetch_scoped(self) -> Token:
        request = wire.scoped_token(self.ingest_host(), self._identity.role)
        text = wire.parse_scoped_token(self._send(request, RequestAttempt()))
        now = self.server_clock.now_s()
        issued_at, expires_at = read_expiry(text, now)
        return Token(text, now if issued_at is None else issued_at, expires_at)

    def _renew_scoped(self) -> None:
        self._drop(self.scoped)

    def _renew_jwt(self) -> None:
        self._drop(self.jwt)
        self._drop(self.scoped)

    def _renew_key(self) -> None:
        with _as_refused():
            self.reload_key()

    def _drop(self, cache: CachedToken) -> None:
        if cache in self._used:
            cache.invalidate(self._used[cache])


@contextlib.contextmanager
def _as_refused() -> Iterator[None]:
    """A key that cannot be read is like one that is refused: an administrator may be at it just now."""
    try:
        yield
    except (KeyFileError, NotPermittedError) as error:
        raise AuthError(str(error), hint=error.hint) from error
