"""An authenticated client of one Snowflake account: ingest host, tokens, renewal after a refusal."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from agent.clock.system_clock import is_synchronised as clock_is_synchronised
from agent.errors import (
    AuthError,
    KeyFileError,
    NotPermittedError,
    SnowpipeError,
    TransientError,
    UnreachableError,
)
from agent.keys.keypair import KeyPair
from agent.settings import SnowflakeSettings
from agent.snowpipe import wire
from agent.snowpipe.account_url import is_loopback
from agent.snowpipe.http import LONGEST_REQUEST_S, Http
from agent.snowpipe.jwt import CachedToken, FreshToken, Token, mint, read_expiry
from agent.snowpipe.refusal import GONE, refusal
from agent.snowpipe.server_clock import ServerClock
from agent.snowpipe.wire import Encoding, Reply, Request

_log = logging.getLogger(__name__)

_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN, _UNSUPPORTED = 400, 401, 403, 415

# A call begins no further request after this time.
_CALL_S = 240.0
LONGEST_CALL_S = _CALL_S + LONGEST_REQUEST_S
# The ingest host is asked for again after so many failures of any kind in a row, and once a day: the pipe
# may have failed over to another, and the old one may answer anything.
_FAILURES_UNTIL_NEW_HOST = 3
_HOST_AGE_S = 86_400.0
_HOST_IS_FRESH_S = 60.0
_GZIP_S = 86_400.0
_MOST_OPEN_ATTEMPTS = 16


@dataclass(slots=True)
class RequestAttempt:
    """Identifies one request across its retries: the same id, a rising count."""

    request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    count: int = 0


@dataclass(frozen=True, slots=True)
class _Host:
    name: str
    asked_at: float  # by the age clock


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
        is_synchronised: Callable[[], bool] = clock_is_synchronised,
    ) -> None:
        """Reads the key. Raises KeyFileError or NotPermittedError if it cannot be used.

        With `may_lack_key`, each call raises an AuthError instead until the key can be used.
        `monotonic_s` should be the boot-time clock: tokens also expire during a suspend.
        """
        self._http = http
        self._settings = settings
        self._load_key = load_key
        self._age_s = monotonic_s
        self.server_clock = ServerClock(wall_s, monotonic_s, is_synchronised)
        self._key: KeyPair | None = None
        try:
            self._key = load_key()
        except (KeyFileError, NotPermittedError):
            if not may_lack_key:
                raise
        self.jwt = FreshToken(self._mint)
        self.scoped = CachedToken(self._fetch_scoped, age_clock=monotonic_s)
        self.uses_default_role = settings.role is None
        self._has_tried_host_alone = False
        self._host: _Host | None = None
        self._failures = 0  # in a row, of calls to the ingest host
        self._gzip_until = -math.inf
        self._give_up_at = math.inf
        self._attempts: dict[tuple[str, bytes], RequestAttempt] = {}

    @property
    def key(self) -> KeyPair | None:
        """The key that signs the next token; None if no usable key was found."""
        return self._key

    def reload_key(self) -> KeyPair:
        """Read the key again, discard the scoped token, and return the key. From any thread.

        Raises KeyFileError or NotPermittedError; the client then keeps the key it had.
        """
        self._key = key = self._load_key()
        self._has_tried_host_alone = False
        self.scoped.discard()
        return key

    def call(self, request: Request, tries: RequestAttempt | None = None) -> Reply:
        """Send a request to the ingest host and return its 2xx answer. Raises SnowpipeError otherwise.

        If the credentials are refused, everything is renewed and the request is sent once more: the host,
        the scoped token, and after a 401 the key, because an administrator may have replaced it. Never
        more than two tries: repeated refused sign-ins may lock a user.
        Without `tries` a failed request keeps its id for the next call with the same content.
        """
        name = (request.path, request.body)
        if tries is None:
            if len(self._attempts) >= _MOST_OPEN_ATTEMPTS:
                self._attempts.clear()
            tries = self._attempts.setdefault(name, RequestAttempt())
            reply = self._counted(request, tries)
            del self._attempts[name]
            return reply
        return self._try_twice(request, tries)

    @property
    def encoding(self) -> Encoding:
        """The compression for rows: gzip for a day after zstd was refused on the way."""
        return "gzip" if self._age_s() < self._gzip_until else "zstd"

    def encoding_refused(self, error: SnowpipeError) -> bool:
        """True if an append failed because of its compression; then `encoding` is the other one."""
        is_refused = error.status == _UNSUPPORTED or (
            error.status == _BAD_REQUEST and (not error.from_snowflake or "ENCODING" in error.code)
        )
        if is_refused:
            other: Encoding = "gzip" if self.encoding == "zstd" else "zstd"
            _log.info("rows are compressed with %s from now on: %s", other, error)
            self._gzip_until = self._age_s() + _GZIP_S if other == "gzip" else -math.inf
        return is_refused

    def ingest_host(self, *, max_age_s: float = _HOST_AGE_S) -> str:
        """The host that accepts rows; asked for again if the answer is older."""
        if self._host is None or self._age_s() - self._host.asked_at > max_age_s:
            name = wire.parse_hostname(self._control(wire.hostname()))
            self._host = _Host(name, self._age_s())
        return self._host.name

    # --- one call -------------------------------------------------------------------------------

    def _counted(self, request: Request, tries: RequestAttempt) -> Reply:
        try:
            return self._try_twice(request, tries)
        except AuthError:
            raise  # counted by _try_twice()
        except SnowpipeError:
            tries.count += 1
            raise

    def _try_twice(self, request: Request, tries: RequestAttempt) -> Reply:
        self._give_up_at = self._age_s() + _CALL_S
        try:
            try:
                return self._ingest(request, tries)
            except AuthError as error:
                tries.count += 1
                self._renew(error)
            try:
                return self._ingest(request, tries)
            except AuthError:
                tries.count += 1  # the caller may retry with the same object
                raise
        finally:
            self._give_up_at = math.inf

    def _ingest(self, request: Request, tries: RequestAttempt) -> Reply:
        try:
            if self._host is not None and self._age_s() - self._host.asked_at > _HOST_AGE_S:
                self._forget_host()
            token = self.scoped.get()
            reply = self._send(self._ingest_url(), request, tries, token, "OAUTH")
        except SnowpipeError as error:
            self._failures += 1
            is_moved = error.status == GONE or isinstance(error, UnreachableError)
            if is_moved or self._failures % _FAILURES_UNTIL_NEW_HOST == 0:
                self._forget_host()
            raise
        self._failures = 0
        return reply

    def _control(self, request: Request) -> Reply:
        """A request to the account's host; after a 401 once more by the other clock, if the two differ."""
        tries = RequestAttempt()
        try:
            return self._send(self._settings.url, request, tries, self.jwt.get(), "KEYPAIR_JWT")
        except AuthError as error:
            if error.status != _UNAUTHORIZED or not self.server_clock.refused():
                raise
        tries.count += 1
        return self._send(self._settings.url, request, tries, self.jwt.get(), "KEYPAIR_JWT")

    def _send(
        self, base: str, request: Request, tries: RequestAttempt, token: Token, token_type: str
    ) -> Reply:
        if self._age_s() > self._give_up_at:
            raise TransientError(
                f"{request.what}: not sent, because the requests before it took {_CALL_S:.0f} s",
                hint="the network at the door is slow; it is tried again",
            )
        numbered = dataclasses.replace(
            request,
            query=(*request.query, ("requestId", tries.request_id), ("retryCount", str(tries.count))),
        )
        asked_s = self.server_clock.boot_s()
        reply = self._http.send(base, numbered, token=token.text, token_type=token_type)
        # Before any renewal: a token may have been refused because this machine's clock is wrong.
        self.server_clock.observe(reply.headers, asked_s)
        if not 200 <= reply.status < 300:  # noqa: PLR2004 - the class of success, RFC 9110 15.3
            raise refusal(request, reply, self._http.via(base))
        return reply

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

    # --- credentials ----------------------------------------------------------------------------

    def _mint(self) -> Token:
        if self._key is None:
            with _as_refused():
                self._key = self._load_key()
        token = mint(self._key, self._settings.account, self._settings.user, self.server_clock.now_s())
        _log.debug("minted a JWT, valid until %d", token.expires_at)
        return token

    def _fetch_scoped(self) -> Token:
        host = self.ingest_host(max_age_s=_HOST_IS_FRESH_S)
        text = wire.parse_scoped_token(self._exchange(host))
        now = self.server_clock.now_s()
        issued_at, expires_at = read_expiry(text, now)
        return Token(text, now if issued_at is None else issued_at, expires_at)

    def _exchange(self, host: str) -> Reply:
        """The exchange of the JWT for a scoped token.

        The documentation has the host alone as scope; live accounts also accept a role after it. If the
        scope with the role is refused, the host alone is tried once.
        """
        role = None if self.uses_default_role else self._settings.role
        try:
            reply = self._control(wire.scoped_token(host, role))
        except SnowpipeError as error:
            is_refused = error.status in {_BAD_REQUEST, _UNAUTHORIZED, _FORBIDDEN}
            if role is None or not is_refused or self._has_tried_host_alone:
                raise
            self._has_tried_host_alone = True
            try:
                reply = self._control(wire.scoped_token(host, None))
            except SnowpipeError:
                raise error from None  # about the scope as it was configured
            self.uses_default_role = True
            _log.warning("the role in the scope is refused (%s); the user's default role is used", error)
        return reply

    def _renew(self, error: AuthError) -> None:
        """Forget what may have caused a refusal; a 403 is about privileges, not about the key."""
        self._forget_host()
        if error.status != _FORBIDDEN:
            with _as_refused():
                self.reload_key()

    def _forget_host(self) -> None:
        """Ask for the ingest host again; its scoped token is valid for one service instance."""
        self._host = None
        self.scoped.discard()


@contextlib.contextmanager
def _as_refused() -> Iterator[None]:
    """Treat an unreadable key as a refused one: an administrator may be replacing it at this moment."""
    try:
        yield
    except (KeyFileError, NotPermittedError) as error:
        raise AuthError(str(error), hint=error.hint) from error
