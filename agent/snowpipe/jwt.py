"""Key-pair tokens: minting, caching, renewing; the only module that imports jwt."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import jwt

from agent.errors import AgentError
from agent.keys.keypair import KeyPair

# Snowflake accepts a key-pair token for one hour after `iat`, whatever `exp` is; the minute
# below that allows for network delay and clock differences.
_LIFETIME_SECONDS = 59 * 60
_RENEW_EARLY_SECONDS = 5 * 60
_RETRY_SECONDS = 30  # between failed renewals while the old token is valid
_FAR_FUTURE = 1e11  # seconds since 1970: the year 5138
_SCOPED_LIFETIME_SECONDS = 55 * 60  # assumed if a scoped token has no expiry


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; both times are seconds since 1970 by the clock of its issuer."""

    text: str = field(repr=False)
    issued_at: float
    expires_at: float


def mint(key: KeyPair, account: str, user: str, now: float) -> Token:
    """Sign a key-pair token at `now`, seconds since 1970, valid for 59 minutes.

    The claims are those of Snowflake's "Using key-pair authentication": upper case, and of an
    account locator only the part before the region.
    """
    issued_at = int(now)
    expires_at = issued_at + _LIFETIME_SECONDS
    subject = f"{account.partition('.')[0]}.{user}".upper()
    claims = {
        "iss": f"{subject}.{key.fingerprint}",
        "sub": subject,
        "iat": issued_at,
        "exp": expires_at,
    }
    return Token(jwt.encode(claims, key.private_key, algorithm=key.algorithm), issued_at, expires_at)


def read_expiry(jwt_text: str, now: float) -> tuple[float | None, float]:
    """(issued_at or None, expires_at) of a scoped token, unverified: that is up to the server.

    Without an expiry it is assumed to last 55 minutes from its issue, or else from `now`; if that is
    too long, the cost is one 401 and a renewal.
    """
    try:
        claims = jwt.decode(jwt_text, options={"verify_signature": False})
    except jwt.PyJWTError:
        claims = {}
    issued_at, expires_at = _seconds(claims.get("iat")), _seconds(claims.get("exp"))
    if expires_at is None:
        expires_at = (now if issued_at is None else issued_at) + _SCOPED_LIFETIME_SECONDS
    return issued_at, expires_at


def _seconds(claim: object) -> float | None:
    # A date that far away is a count of milliseconds, an infinity or an error.
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not 0 <= claim < _FAR_FUTURE:
        return None
    return claim


class FreshToken:
    """A token signed for each exchange: Snowflake refuses one that is older than a minute (394302)."""

    def __init__(self, sign: Callable[[], Token]) -> None:
        self._sign = sign
        self.expires_at: float | None = None  # of the last one, seconds since 1970

    def get(self) -> Token:
        """A new token. Raises the errors of `sign`."""
        token = self._sign()
        self.expires_at = token.expires_at
        return token


class CachedToken:
    """One token for all threads. The first caller after the renewal time renews it; the others
    continue with the old token, and wait only if it has expired.

    `age_clock` counts monotonic seconds and alone measures a token's age, so that a jump of the wall
    clock neither expires nor prolongs a token.
    """

    def __init__(self, renew: Callable[[], Token], *, age_clock: Callable[[], float]) -> None:
        self._renew = renew
        self._age_clock = age_clock
        self._changed = threading.Condition()
        self._token: Token | None = None
        self._renew_at = self._valid_until = -math.inf  # by the age clock
        self._renewing = False
        self._discarded = 0  # a count: a renewal that began before is not kept
        self._failure: AgentError | None = None

    @property
    def expires_at(self) -> float | None:
        """Expiry of the current token, seconds since 1970 by its issuer; None without a token."""
        token = self._token
        return token.expires_at if token else None

    @property
    def failure(self) -> AgentError | None:
        """The error of the last renewal; None if it succeeded."""
        return self._failure

    def get(self) -> Token:
        """A valid token. Raises the error of `renew` if there is none and renewal fails.

        Without a valid token every call tries again: the caller limits the rate.
        """
        with self._changed:
            while True:
                now = self._age_clock()
                if self._token and now < self._valid_until and (self._renewing or now < self._renew_at):
                    return self._token
                if not self._renewing:
                    break
                self._changed.wait()
                if self._failure and not self._renewing:
                    # One try was made for all waiting threads; one try each would be a burst.
                    raise self._failure
            self._renewing = True
        return self._renewed()

    def invalidate(self, token: Token) -> None:
        """The server refused this token: renew it in the next get(), unless it was already replaced."""
        with self._changed:
            if self._token == token:
                self._token = None

    def discard(self) -> None:
        """No later get() returns a token whose renewal began before this call."""
        with self._changed:
            self._token = None
            self._discarded += 1

    def _renewed(self) -> Token:
        # Measured before the request: the token may have been issued at any time since.
        asked_at, discarded = self._age_clock(), self._discarded
        try:
            token = self._renew()
            with self._changed:
                if discarded == self._discarded:
                    self._keep(token, asked_at)
        except AgentError as error:
            with self._changed:
                self._failure = error
                now = self._age_clock()
                if not self._token or now >= self._valid_until:
                    raise
                self._renew_at = now + _RETRY_SECONDS
                return self._token
        finally:
            with self._changed:
                self._renewing = False
                self._changed.notify_all()
        return token

    def _keep(self, token: Token, asked_at: float) -> None:
        lifetime = token.expires_at - token.issued_at
        self._token = token
        self._failure = None
        self._valid_until = asked_at + lifetime
        # Lifetimes under ten minutes: half of it; five whole minutes would cause a renewal per call.
        self._renew_at = self._valid_until - min(_RENEW_EARLY_SECONDS, lifetime / 2)
