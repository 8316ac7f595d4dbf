"""The site key: makes pseudonyms of card numbers, which open no door and are the same at every door."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import KeyFileError, KeyNotStoredError, NotPermittedError
from agent.keys import systemd_creds
from agent.keys.secret_file import read_secret
from agent.settings import Settings

_KEY_BYTES = 32
_LINE = re.compile(rb"[0-9a-fA-F]{64}")
# 128 bits: two cards of a site never share a pseudonym by chance.
_DIGITS = 32


@dataclass(frozen=True, slots=True)
class SiteKey:
    """A key of HMAC-SHA-256. Who has it can find a card number by trying all of them."""

    secret: bytes = field(repr=False)

    def badge(self, badge_id: str) -> str:
        """The pseudonym of a badge id: 32 upper-case hex digits."""
        return self._pseudonym("badge_id", badge_id)

    def card(self, bits: int, raw: str) -> str:
        """The pseudonym of the bits of a card: 32 upper-case hex digits."""
        return self._pseudonym("card_raw", f"{bits}:{raw}")

    @property
    def fingerprint(self) -> str:
        """Eight hex digits by which two doors can be compared."""
        return self._pseudonym("fingerprint", "")[:8]

    @property
    def line(self) -> bytes:
        """The key as a line of hex digits: the content of its file. A secret."""
        return self.secret.hex().encode() + b"\n"

    def _pseudonym(self, column: str, text: str) -> str:
        # The column's name first: no pseudonym of one column is one of another.
        digest = hmac.new(self.secret, f"{column}\0{text}".encode(), hashlib.sha256)
        return digest.hexdigest()[:_DIGITS].upper()


def new_site_key() -> SiteKey:
    """A random key."""
    return SiteKey(secrets.token_bytes(_KEY_BYTES))


def parse_site_key(content: bytes, path: Path) -> SiteKey:
    """Parse the content of a file. Raises KeyFileError."""
    line = content.strip()
    if not _LINE.fullmatch(line):
        raise KeyFileError(
            f"{path}: a site key is one line of {2 * _KEY_BYTES} hex digits",
            hint="take the file that `badge-agent setup --site-key FILE` wrote at the first door of the site",
        )
    return SiteKey(bytes.fromhex(line.decode()))


def read_site_key(path: Path) -> SiteKey:
    """The key of a file of mode 0600. Raises KeyFileError or NotPermittedError."""
    return parse_site_key(read_secret(path, "site key"), path)


def write_site_key(path: Path, key: SiteKey) -> None:
    """Write a new file of mode 0600. Raises KeyFileError or NotPermittedError; never overwrites a file."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key.line)
            file.flush()
            os.fsync(descriptor)
    except PermissionError as error:
        raise NotPermittedError(f"{path}: {error.strerror}", hint="run the same command with sudo") from error
    except OSError as error:
        raise KeyFileError(f"{path}: {error.strerror}", hint="name a new file") from error


def site_key_of(settings: Settings) -> SiteKey | None:
    """The key with which card numbers are replaced; None where they are kept as they are.

    From the configured file, else the service's credential. Raises KeyFileError or NotPermittedError.
    """
    return load_site_key(settings) if settings.privacy.card_numbers == "keyed" else None


def load_site_key(settings: Settings) -> SiteKey:
    """The site key. Raises KeyFileError or NotPermittedError.

    KeyNotStoredError if the service has none: a start decrypts it again, so a later one may have it.
    """
    if settings.privacy.site_key_file is not None:
        return read_site_key(settings.privacy.site_key_file)
    credential = systemd_creds.credential_path("site_key")
    if credential is not None and credential.exists() and not systemd_creds.is_absent(credential):
        return read_site_key(credential)
    stored = systemd_creds.find("site_key") if credential is None else None
    if stored is None:
        raise KeyNotStoredError(
            "the service has no site key: none is stored, or this machine cannot decrypt it",
            hint="sudo badge-agent setup --site-key FILE: the file of another door, or a new name",
        )
    return parse_site_key(systemd_creds.read(stored), stored.path)
