"""Key-pair tokens: the key, minting, caching, renewing; the only module that imports jwt and cryptography."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import shlex
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from agent.durable import sync
from agent.errors import AgentError, KeyFileError, NotPermittedError

_KEY_BITS = 2048  # the least that Snowflake registers, and the fastest to sign with on a Pi Zero
_LARGEST_KEY_FILE = 65_536  # bytes; a 16384-bit key in PEM has 13,000

# Snowflake honours a key-pair token for one hour after `iat`, whatever `exp` says; the minute
# below that is for the way and for clocks that differ.
_LIFETIME_SECONDS = 59 * 60
_RENEW_EARLY_SECONDS = 5 * 60
_RETRY_SECONDS = 30  # between failed renewals while the old token still serves
_FAR_FUTURE = 1e11  # seconds since 1970: the year 5138
_SCOPED_LIFETIME_SECONDS = 55 * 60  # assumed where a scoped token does not tell its own

# Elsewhere a file's mode is made up: Windows says 0666 of every file that can be written.
_HAS_FILE_MODES = os.name == "posix"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An RSA key as Snowflake registers it: `public_key_line` is the value of RSA_PUBLIC_KEY,
    `fingerprint` what DESC USER shows as RSA_PUBLIC_KEY_FP.
    """

    fingerprint: str
    bits: int = field(repr=False)
    public_key_line: str = field(repr=False)
    public_key_pem: str = field(repr=False)
    private_key: rsa.RSAPrivateKey = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token; both times are seconds since 1970 by the clock of whoever issued it."""

    text: str = field(repr=False)
    issued_at: float
    expires_at: float


# --- the key file ---------------------------------------------------------------------------


def load_private_key(path: Path, passphrase_file: Path | None = None) -> KeyPair:
    """Read a PEM key; KeyFileError or NotPermittedError says what is wrong with which file."""
    content = _read_secret(
        path,
        "private key",
        f"make a key: badge-agent key generate --out {_quoted(path)}; or correct the path",
    )
    _refuse_other_kinds(path, content)
    # The comma keeps base64 from ever looking like the header of an encrypted traditional key.
    encrypted = b"BEGIN ENCRYPTED" in content or b"4,ENCRYPTED" in content
    passphrase = _read_passphrase(path, passphrase_file) if encrypted else None
    try:
        private_key = serialization.load_pem_private_key(content, passphrase)
    # No more exact: which of the three it is differs between the library's versions.
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise KeyFileError(
                f"{path}: the private key does not open with the passphrase in {passphrase_file}",
                hint="correct the passphrase; if it is right, encrypt the key in a form that is read here: "
                f"openssl pkcs8 -topk8 -v2 aes-256-cbc -in {_quoted(path)} -out new_key.p8",
            ) from error
        raise KeyFileError(
            f"{path}: the private key is damaged, or of a kind that Snowflake does not take",
            hint="copy it again, all lines from BEGIN to END; or make a new one: badge-agent key generate",
        ) from error
    return _key_pair(path, private_key)


def generate_key(path: Path) -> KeyPair:
    """Make a 2048-bit RSA key in a new PKCS#8 PEM file, mode 0600, on disk when this returns.

    KeyFileError if the file exists or cannot be written, NotPermittedError if not allowed.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            private_key = _write_new_key(descriptor)
            sync(path.parent)
        except BaseException:
            path.unlink()
            raise
    except FileExistsError as error:
        raise KeyFileError(
            f"{path}: the file exists already, and a key is never overwritten",
            hint=f"use it (badge-agent key fingerprint {_quoted(path)}), or name another file with --out",
        ) from error
    except PermissionError as error:
        raise NotPermittedError(
            f"{path}: this user may not create files in {path.parent}",
            hint="run the same command with sudo, or name another place with --out",
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"{path}: the key cannot be written: {error.strerror}",
            hint=f"look at the place: ls -ld {_quoted(path.parent)}; df -h {_quoted(path.parent)}",
        ) from error
    return _key_pair(path, private_key)


def _write_new_key(descriptor: int) -> rsa.RSAPrivateKey:
    with os.fdopen(descriptor, "wb") as file:
        private_key = rsa.generate_private_key(public_exponent=65_537, key_size=_KEY_BITS)
        file.write(
            private_key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        file.flush()
        os.fsync(file.fileno())
    return private_key


def _read_secret(path: Path, what: str, if_missing: str) -> bytes:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            content = file.read(_LARGEST_KEY_FILE)
    except FileNotFoundError as error:
        raise KeyFileError(f"{path}: no such {what} file", hint=if_missing) from error
    except PermissionError as error:
        raise NotPermittedError(
            f"{path}: this user may not read the {what} file",
            hint=f"run the same command with sudo, or give the agent's user the file: "
            f"sudo chown badge-agent {_quoted(path)}",
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"{path}: the {what} file cannot be read: {error.strerror}",
            hint=f"see what is there: ls -ld {_quoted(path)}",
        ) from error
    # systemd hands credentials over with group read, in a directory closed to everyone else.
    if _HAS_FILE_MODES and mode & (0o037 if _is_credential(path) else 0o077):
        raise KeyFileError(
            f"{path}: the {what} file is open to other users (mode {mode:04o})",
            hint=f"chmod 600 {_quoted(path)}",
        )
    return content


def _is_credential(path: Path) -> bool:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return directory is not None and path.resolve().is_relative_to(Path(directory).resolve())


def _read_passphrase(path: Path, passphrase_file: Path | None) -> bytes:
    if passphrase_file is None:
        raise KeyFileError(
            f"{path}: the private key is encrypted, and no passphrase file is set",
            hint="write the passphrase into a file of mode 0600 and name it in the configuration: "
            "[snowflake] private_key_passphrase_file",
        )
    content = _read_secret(
        passphrase_file, "passphrase", "write the passphrase into it (mode 0600), or correct the path"
    )
    passphrase = content.rstrip(b"\r\n")
    if not passphrase:
        raise KeyFileError(
            f"{passphrase_file}: the passphrase file is empty", hint="write the passphrase of the key into it"
        )
    return passphrase


def _refuse_other_kinds(path: Path, content: bytes) -> None:
    kind, hint = "no PEM private key", "make a key: badge-agent key generate"
    if b"BEGIN OPENSSH PRIVATE KEY" in content:
        kind, hint = "a key in OpenSSH's own form", f"convert it: ssh-keygen -p -m PKCS8 -f {_quoted(path)}"
    elif b"PRIVATE KEY-----" in content:
        return
    elif b"PUBLIC KEY-----" in content or content.startswith(b"ssh-"):
        kind, hint = "a public key", "name the private key that belongs to it, often called rsa_key.p8"
    elif content.startswith(b"\x30"):  # an ASN.1 SEQUENCE
        kind, hint = "a DER file", f"convert it: openssl pkey -inform DER -in {_quoted(path)} -out rsa_key.p8"
    raise KeyFileError(f"{path}: holds {kind} where a private key in PEM form is needed", hint=hint)


def _key_pair(path: Path, private_key: object) -> KeyPair:
    if not isinstance(private_key, rsa.RSAPrivateKey) or private_key.key_size < _KEY_BITS:
        found = f"{private_key.key_size} bits" if isinstance(private_key, rsa.RSAPrivateKey) else "not RSA"
        raise KeyFileError(
            f"{path}: Snowflake takes RSA keys of at least {_KEY_BITS} bits, this one is {found}",
            hint="make a new one: badge-agent key generate",
        )
    public_key = private_key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = public_key.public_bytes(serialization.Encoding.DER, form)
    return KeyPair(
        fingerprint="SHA256:" + base64.b64encode(hashlib.sha256(der).digest()).decode("ascii"),
        bits=private_key.key_size,
        public_key_line=base64.b64encode(der).decode("ascii"),
        public_key_pem=public_key.public_bytes(serialization.Encoding.PEM, form).decode("ascii"),
        private_key=private_key,
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


# --- tokens ---------------------------------------------------------------------------------


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

    def _renewed(self) -> Token:
        # Taken before asking: the token may have been issued at any time since.
        asked_at = self._age_clock()
        try:
            token = self._renew()
            with self._changed:
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
