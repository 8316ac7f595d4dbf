"""Key-pair tokens: minting, caching, renewing; the only module that imports jwt."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import jwt

from agent.errors import AgentError
from agent.keys.keypair import KeyPair

# Snowflake honours a key-pair token for one hour after `iat`, whatever `exp` says; the minute
# below that is for the way and for clocks that differ.
_LIFETIME_SECONDS = 59 * 60
_RENEW_EARLY_SECONDS = 5 * 60
_RETRY_SECONDS = 30  # between failed renewals while the old token still serves
_FAR_FUTURE = 1e11  # seconds since 1970: the year 5138
_SCOPED_LIFETIME_SECONDS = 55 * 60  # assumed where a scoped token does not tell its own


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; both times are seconds since 1970 by the clock of whoever issued it."""

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
    return Token(jwt.encode(claims, key.private_key, algorithm="RS256"), issued_at, expires_at)


def read_expiry(jwt_text: str, now: float) -> tuple[float | None, float]:
    """(issued_at or None, expires_at) of a scoped token, unverified: it is its reader's to judge.

    What tells no expiry is taken to last 55 minutes from its issue, or else from `now`; too
    long a guess costs one 401 and a renewal.
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
    # A date that far off is a count of milliseconds, an infinity or a mistake.
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not 0 <= claim < _FAR_FUTURE:
        return None
    return claim


class CachedToken:
    """One token for all threads, renewed early by whoever first asks then; the others go on
    with the old one and wait only when no valid one is left.

    `age_clock` counts monotonic seconds: a token's age is measured by it alone, so that a wall
    clock that jumps neither expires nor prolongs a token.
    """

    def __init__(self, renew: Callable[[], Token], *, age_clock: Callable[[], float]) -> None:
        self._renew = renew
        self._age_clock = age_clock
        self._changed = threading.Condition()
        self._token: Token | None = None
        self._renew_at = self._valid_until = -math.inf  # by the age clock
        self._renewing = False
        self._discarded = 0  # how often: a renewal that began before is not kept
        self._failure: AgentError | None = None

    @property
    def expires_at(self) -> float | None:
        """When the current token ends, seconds since 1970 by its issuer; None without one."""
        token = self._token
        return token.expires_at if token else None

    @property
    def failure(self) -> AgentError | None:
        """Why the last renewal failed; None after one that did not."""
        return self._failure

    def get(self) -> Token:
        """A valid token; raises what `renew` raised when there is none and none can be had.

        Without a valid token every call tries again: pacing is the caller's.
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
                    # One try was made for all who waited; each pacing its own would be a burst.
                    raise self._failure
            self._renewing = True
        return self._renewed()

    def invalidate(self, token: Token) -> None:
        """The server refused this token: renew at the next get(), unless that happened already."""
        with self._changed:
            if self._token == token:
                self._token = None

    def discard(self) -> None:
        """What was issued until now, or is being issued just now, is given to no later get()."""
        with self._changed:
            self._token = None
            self._discarded += 1

    def _renewed(self) -> Token:
        # Taken before asking: the token may have been issued at any time since.
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
        # Half of a lifetime shorter than ten minutes: five whole ones would be a renewal per call.
        self._renew_at = self._valid_until - min(_RENEW_EARLY_SECONDS, lifetime / 2)
