"""The keys of encrypted readers (OSDP) by reader id, stored as a systemd credential or in a file."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.errors import KeyFileError
from agent.keys import systemd_creds
from agent.keys.secret_file import read_secret
from agent.settings import Settings

_KEY_BYTES = 16  # AES-128


@dataclass(frozen=True, slots=True)
class ReaderKeys:
    """Keys by reader id, which no repr() shows.

    `are_unreadable`: which readers have keys is not known, so that none of them may be asked in clear text.
    """

    by_reader: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    are_unreadable: bool = False

    def of(self, reader_id: str) -> bytes | None:
        """The key of this reader, if it has one."""
        return self.by_reader.get(reader_id)

    def with_key(self, reader_id: str, key: bytes) -> ReaderKeys:
        """The same keys with this one."""
        return ReaderKeys({**self.by_reader, reader_id: key})

    @property
    def content(self) -> bytes:
        """The lines of its file. A secret."""
        return b"".join(f"{name} {key.hex()}\n".encode() for name, key in sorted(self.by_reader.items()))


def new_reader_key() -> bytes:
    """A random key."""
    return secrets.token_bytes(_KEY_BYTES)


def parse_reader_keys(content: bytes, path: Path) -> ReaderKeys:
    """Parse the content of a file, one line `ID KEY` for each reader. Raises KeyFileError."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(content.decode("ascii", "replace").splitlines(), start=1):
        name, _, digits = line.strip().partition(" ")
        if not name:
            continue
        try:
            keys[name] = bytes.fromhex(digits)
        except ValueError:
            keys[name] = b""
        if len(keys[name]) != _KEY_BYTES:
            raise KeyFileError(
                f"{path}: line {number} is not a reader id and its key of {2 * _KEY_BYTES} hex digits",
                hint="correct the line, or make the keys again: sudo badge-agent setup",
            )
    return ReaderKeys(keys)


def load_reader_keys(settings: Settings) -> ReaderKeys:
    """The keys of the configured file, else of the service's credential; none if none are stored.

    Raises KeyFileError or NotPermittedError.
    """
    path = settings.agent.reader_keys_file
    if path is not None and not path.exists():
        return ReaderKeys()  # before setup has made them
    if path is not None:
        return parse_reader_keys(read_secret(path, "reader keys"), path)
    credential = systemd_creds.credential_path("reader_keys")
    if credential is not None:
        if not credential.exists() or systemd_creds.is_absent(credential):
            return ReaderKeys()
        return parse_reader_keys(read_secret(credential, "reader keys"), credential)
    return stored_reader_keys()


def stored_reader_keys() -> ReaderKeys:
    """The keys stored for the service, as root reads them. Raises KeyFileError or NotPermittedError."""
    stored = systemd_creds.find("reader_keys")
    return ReaderKeys() if stored is None else parse_reader_keys(systemd_creds.read(stored), stored.path)
