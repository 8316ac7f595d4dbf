"""An authenticated client of one Snowflake account: ingest host, tokens, renewal after a refusal."""

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
from agent.settings import SnowflakeSettings
from agent.snowpipe import wire
from agent.snowpipe.account_url import is_loopback
from agent.snowpipe.http import LONGEST_REQUEST_S, Http
from agent.snowpipe.jwt import CachedToken, Token, mint, read_expiry
from agent.snowpipe.server_clock import ServerClock
from agent.snowpipe.wire import Reply, Request

_log = logging.getLogger(__name__)

_FORBIDDEN = 403

# call() sends a request at most four times: as it is, and after each of three renewals. Each time a new
# scoped token may be fetched first, and once the ingest host.
MOST_REQUESTS_PER_CALL = 1 + 4 * 2
LONGEST_CALL_S = MOST_REQUESTS_PER_CALL * LONGEST_REQUEST_S


@dataclass(slots=True)
class RequestAttempt:
    """Identifies one request across its retries: the same id, a rising count."""

    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    count: int = 0


class Client:
    """Sends requests as one user. Thread-safe for tokens and reload_key(); requests come from one thread."""

    def __init__(
        self,
        http: Http,
        settings: SnowflakeSettings,
        *,
        load_key: Callable[[], KeyPair],
        wall_s: Callable[[], float],
        monotonic_s: Callable[[], float],
        may_lack_key: bool = False,
    ) -> None:
        """Reads the key. Raises KeyFileError or NotPermittedError if it cannot be used.

        With `may_lack_key`, each call raises an AuthError instead until the key can be used.
        `monotonic_s` should be the boot-time clock: tokens also expire during a suspend.
        """
        self._http = http
        self._settings = settings
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
        """The key that signs the next token; None if no usable key was found."""
        return self._key

    def reload_key(self) -> KeyPair:
        """Read the key again, discard every token, and return the key. From any thread.

        Raises KeyFileError or NotPermittedError; the client then keeps the key it had.
        """
        self._key = key = self._load_key()
        self.jwt.discard()
        self.scoped.discard()
        return key

    def call(self, request: Request, tries: RequestAttempt) -> Reply:
        """Send a request and return its 2xx answer. Raises SnowpipeError for every other outcome.

        If the credentials are refused, they are renewed and the request is repeated: first the scoped
        token, then the JWT, then the key is read again, because an administrator may have replaced it.
        A 403 is about privileges, so only the scoped token is renewed for it.
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
            tries.count += 1  # the caller may retry with the same object
            raise

    def _send(self, request: Request, tries: RequestAttempt) -> Reply:
        if request.plane == "ingest":
            base, cache, token_type = self._ingest_url(), self.scoped, "OAUTH"
        else:
            base, cache, token_type = self._settings.url, self.jwt, "KEYPAIR_JWT"
        token = self._used[cache] = cache.get()
        numbered = dataclasses.replace(
            request,
            query=(*request.query, ("requestId", tries.request_id), ("retryCount", str(tries.count))),
        )
        asked_s = self.server_clock.boot_s()
        try:
            reply = self._http.send(base, numbered, token=token.text, token_type=token_type)
        except UnreachableError:
            self._ingest_host = None  # the account may have moved: ask for the host again
            raise
        # Before any renewal: a token may have been refused because this machine's clock is wrong.
        self.server_clock.observe(reply.headers, asked_s)
        if not 200 <= reply.status < 300:  # noqa: PLR2004 - the class of success, RFC 9110 15.3
            raise wire.refusal(request, reply)
        return reply

    def ingest_host(self) -> str:
        """The host that accepts rows; requested once, and again after it was unreachable."""
        if self._ingest_host is None:
            self._ingest_host = wire.parse_hostname(self._send(wire.hostname(), RequestAttempt()))
        return self._ingest_host

    def _ingest_url(self) -> str:
        control = urlsplit(self._settings.url)
        host = self.ingest_host()
        # A host without a port has the scheme and the port of the control host.
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
        token = mint(self._key, self._settings.account, self._settings.user, self.server_clock.now_s())
        _log.debug("minted a JWT, valid until %d", token.expires_at)
        return token

    def _fetch_scoped(self) -> Token:
        request = wire.scoped_token(self.ingest_host(), self._settings.role)
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
    """Treat an unreadable key as a refused one: an administrator may be replacing it at this moment."""
    try:
        yield
    except (KeyFileError, NotPermittedError) as error:
        raise AuthError(str(error), hint=error.hint) from error
