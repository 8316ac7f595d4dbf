"""Key-pair JWTs checked and scoped tokens issued: the emulator's only importer of jwt and cryptography."""

from __future__ import annotations

import base64
import hashlib
import math
import secrets
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from agent.emulator.responses import RefusalError, malformed
from agent.errors import ConfigError

# A user has two public keys, so that one can be replaced while the other is in use.
SLOTS = ("RSA_PUBLIC_KEY", "RSA_PUBLIC_KEY_2")

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"

# "valid at most 1 h after iat whatever exp says"
MAX_JWT_SECONDS = 3600

# Clock difference of two machines; without it a token issued slightly in the future is refused.
LEEWAY_SECONDS = 10

# iat and exp may be in seconds or in milliseconds: 1e11 s is the year 5138, 1e11 ms is 1973.
_MILLISECONDS_ABOVE = 1e11

PublicKey = RSAPublicKey | EllipticCurvePublicKey
_CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}

_JWT_TYPES = ("KEYPAIR_JWT", "JWT")
_SCOPED_TYPES = ("OAUTH",)


def load_public_key(path: Path) -> PublicKey:
    """The RSA or ECDSA public key in a PEM file. Raises ConfigError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", hint="Check the path.") from error
    except ValueError as error:
        raise ConfigError(
            f"{path}: not a public key in PEM form",
            hint="Give the file that starts with -----BEGIN PUBLIC KEY-----.",
        ) from error
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise ConfigError(
            f"{path}: not an RSA or ECDSA key", hint="Snowflake takes RSA keys of 2048 bits or more."
        )
    return key


def fingerprint(key: PublicKey) -> str:
    """`SHA256:` and the base64 SHA-256 of the key's SPKI DER, as DESC USER shows it."""
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode()


def _invalid_jwt(reason: str) -> RefusalError:
    # The service reports less, but adds the argument of SYSTEM$GET_LOGIN_FAILURE_DETAILS.
    return RefusalError(401, "390144", f"JWT token is invalid: {reason}. [{uuid.uuid4()}]")


def _invalid_scoped(reason: str) -> RefusalError:
    return RefusalError(401, "390303", f"Invalid OAuth access token: {reason}.")


def _seconds(claims: dict[str, Any], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _invalid_jwt(f"{name} is missing or not a time")
    return value / 1000 if value > _MILLISECONDS_ABOVE else float(value)


class Credentials:
    """One user of one account: public keys, and the scoped tokens issued."""

    def __init__(
        self,
        *,
        account: str,
        user: str,
        public_keys: Sequence[PublicKey],
        ingest_host: str,
        scoped_token_seconds: float,
        secret: bytes,
        now: Callable[[], float],
    ) -> None:
        # A locator loses its region part; the org form MYORG-MYACCOUNT has no dot and stays whole.
        self._subject = f"{account.partition('.')[0]}.{user}".upper()
        self._first_keys = dict(zip(SLOTS, public_keys, strict=False))
        self._keys = dict(self._first_keys)
        self.ingest_host = ingest_host
        self.takes_roles = True
        self.max_jwt_age_s = float(MAX_JWT_SECONDS)
        self._scoped_token_seconds = scoped_token_seconds
        self._secret = secret
        self._now = now
        self._generation = secrets.token_hex(8)
        self._expired_all_others = False  # otherwise tokens from before a restart are valid too
        self.key_revoked = False

    @property
    def fingerprints(self) -> dict[str, str]:
        """What DESC USER shows, by slot."""
        return {slot: fingerprint(key) for slot, key in sorted(self._keys.items())}

    def set_key(self, slot: str, line: str) -> None:
        """ALTER USER ... SET. Raises RefusalError (400) if the text is not a key."""
        try:
            self._keys[slot] = _parsed(line)
        except ValueError:
            raise malformed("public_key is the value of RSA_PUBLIC_KEY in ALTER USER.") from None

    def unset_key(self, slot: str) -> None:
        """ALTER USER ... UNSET."""
        self._keys.pop(slot, None)

    def restore(self) -> None:
        """Restore the keys that the emulator was started with, and what is accepted."""
        self.takes_roles = True
        self.max_jwt_age_s = float(MAX_JWT_SECONDS)
        self._keys = dict(self._first_keys)
        self.key_revoked = False

    def expire_scoped_tokens(self) -> None:
        """Treat every scoped token issued so far as expired."""
        self._expired_all_others = True
        self._generation = secrets.token_hex(8)

    def check_any(self, authorization: str, token_type: str) -> None:
        """A key-pair JWT or a scoped token. Raises RefusalError (401)."""
        token = _bearer(authorization)
        if _algorithm(token) == "HS256":
            self._check_scoped(token, token_type)
        else:
            self._check_jwt(token, token_type)

    def check_scoped(self, authorization: str, token_type: str) -> None:
        """A scoped token. Raises RefusalError (401)."""
        token = _bearer(authorization)
        if _algorithm(token) != "HS256":
            raise _invalid_scoped("a scoped token from /oauth/token is needed here")
        self._check_scoped(token, token_type)

    def check_jwt(self, authorization: str, token_type: str) -> None:
        """A key-pair JWT. Raises RefusalError (401)."""
        self._check_jwt(_bearer(authorization), token_type)

    def issue_scoped(self, fields: dict[str, str]) -> str:
        """A scoped token for a form of /oauth/token. Raises RefusalError (400)."""
        if fields.get("grant_type") != GRANT_TYPE:
            raise RefusalError(400, "unsupported_grant_type", f"grant_type must be {GRANT_TYPE}.")
        # A role may follow the host as a separate scope (session:role:NAME).
        scopes = fields.get("scope", "").split()
        if len(scopes) > 1 and not self.takes_roles:
            raise RefusalError(400, "invalid_scope", "scope must be a host name.")
        hosts = [scope for scope in scopes if not scope.lower().startswith("session:role:")]
        if [host.lower() for host in hosts] != [self.ingest_host.lower()]:
            raise RefusalError(
                400, "invalid_scope", "scope must be the host that /v2/streaming/hostname names."
            )
        now = int(self._now())
        claims = {
            "sub": self._subject,
            "scope": fields["scope"],
            "iat": now,
            "exp": now + math.ceil(self._scoped_token_seconds),
            "generation": self._generation,
        }
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def _check_jwt(self, token: str, token_type: str) -> None:
        if token_type and token_type.upper() not in _JWT_TYPES:
            raise _invalid_jwt("X-Snowflake-Authorization-Token-Type names another type")
        issuer = str(_unverified(token).get("iss"))
        issuers = {f"{self._subject}.{fingerprint(key)}": key for key in self._keys.values()}
        key = issuers.get(issuer)
        if key is None:
            raise _invalid_jwt("iss names no registered public key of this account and user")
        claims = _verified(token, key, _algorithm_of(key))
        if claims is None:
            raise _invalid_jwt("the signature does not match the public key")
        if self.key_revoked:
            raise _invalid_jwt("the public key is no longer registered")
        if claims.get("sub") != self._subject:
            raise _invalid_jwt("sub is not ACCOUNT.USER in upper case")
        issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
        now = self._now()
        if now - issued > self.max_jwt_age_s and self.max_jwt_age_s < MAX_JWT_SECONDS:
            raise RefusalError(401, "394302", "JWT_TOKEN_INVALID_ISSUE_TIME")
        if issued > now + LEEWAY_SECONDS:
            raise _invalid_jwt("iat lies in the future")
        if min(expires, issued + MAX_JWT_SECONDS) + LEEWAY_SECONDS <= now:
            raise _invalid_jwt("it has expired")

    def _check_scoped(self, token: str, token_type: str) -> None:
        if token_type and token_type.upper() not in _SCOPED_TYPES:
            raise _invalid_scoped("X-Snowflake-Authorization-Token-Type names another type")
        claims = _verified(token, self._secret, "HS256")
        if claims is None:
            raise _invalid_scoped("it was not issued here")
        is_withdrawn = self._expired_all_others and claims["generation"] != self._generation
        if claims["exp"] <= self._now() or is_withdrawn:
            raise RefusalError(401, "390318", "OAuth access token expired.")


def _parsed(line: str) -> PublicKey:
    """The key as ALTER USER takes it: base64 without the PEM header. Raises ValueError."""
    key = load_der_public_key(base64.b64decode(line, validate=True))
    if not isinstance(key, RSAPublicKey | EllipticCurvePublicKey):
        raise ValueError("not an RSA or ECDSA key")  # noqa: TRY004 - as for every other text that is none
    return key


def _bearer(authorization: str) -> str:
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise RefusalError(401, "390104", "Authorization: Bearer <token> is missing.")
    return token.strip()


def _algorithm(token: str) -> object:
    try:
        return jwt.get_unverified_header(token).get("alg")
    except jwt.PyJWTError:
        raise _invalid_jwt("it cannot be decoded") from None


def _unverified(token: str) -> dict[str, Any]:
    """The unverified claims; they only select the key for verification."""
    try:
        part = token.split(".")[1]
        claims = orjson.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        raise _invalid_jwt("it cannot be decoded") from None
    return claims if isinstance(claims, dict) else {}


def _algorithm_of(key: PublicKey) -> str:
    return "RS256" if isinstance(key, RSAPublicKey) else _CURVES.get(key.curve.name, "")


def _verified(token: str, key: PublicKey | bytes, algorithm: str) -> dict[str, Any] | None:
    # PyJWT verifies only the signature: it has no milliseconds and no limit of one hour after iat.
    try:
        payload = jwt.PyJWS().decode_complete(token, key, algorithms=[algorithm])["payload"]
        claims = orjson.loads(payload)
    except (jwt.PyJWTError, orjson.JSONDecodeError):
        return None
    return claims if isinstance(claims, dict) else None
