"""Storage of the agent's key, with a slot for its successor: a systemd credential or a configured file."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.atomic_file import replace_file, sync
from agent.errors import AgentError, KeyFileError, NotPermittedError
from agent.guarded_file import kind_of
from agent.keys import systemd_creds
from agent.keys.keypair import KeyPair, load_private_key, parse_private_key, pem, read_passphrase
from agent.settings import Settings


class KeyStore(Protocol):
    """Stores the present key and, during a rotation, the waiting one that replaces it."""

    def present(self) -> KeyPair:
        """The key that the next start loads. Raises KeyFileError or NotPermittedError."""

    def waiting(self) -> KeyPair | None:
        """The key stored to replace the present one, or None. Raises KeyFileError or NotPermittedError."""

    def keep_waiting(self, key: KeyPair) -> None:
        """Store the waiting key durably. Raises KeyFileError or NotPermittedError."""

    def switch(self) -> None:
        """Replace the present key by the waiting one, atomically and durably.

        The replaced key is deleted: an unused secret must not stay on the disk.
        Raises KeyFileError or NotPermittedError.
        """


def key_store_of(settings: Settings) -> KeyStore:
    """The store of the configured key file; without one, of the service's credential."""
    snowflake = settings.snowflake
    if snowflake.private_key_file is None:
        return _Credential()
    return _KeyFile(snowflake.private_key_file.resolve(), snowflake.private_key_passphrase_file)


@contextlib.contextmanager
def replacing_key(named: Path | None) -> Iterator[None]:
    """Exclude every other command that replaces the key, until the end of the block.

    Of two rotations at the same time, one could switch to the key of the other before Snowflake accepted it.
    `named`: the configured key file; None for the service's credential.
    Raises AgentError if another command has the lock, NotPermittedError, KeyFileError.
    """
    directory = systemd_creds.directory() if named is None else named.resolve().parent
    try:
        # The directory itself: a lock file would be left, and another user could make it first.
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except PermissionError as error:
        raise NotPermittedError(
            f"{directory}: this user may not replace the key", hint="run the same command with sudo"
        ) from error
    except OSError as error:
        raise KeyFileError(f"{directory}: {error.strerror}", hint=f"ls -ld {directory}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise AgentError(
            "another command replaces the key at the moment",
            hint="wait until the other `key rotate` or `setup` ends, then run this again",
        ) from error
    try:
        yield
    finally:
        os.close(descriptor)


class _Credential:
    def present(self) -> KeyPair:
        stored = systemd_creds.find()
        if stored is None:
            raise KeyFileError("no key is stored for the service", hint="make one: sudo badge-agent setup")
        return parse_private_key(systemd_creds.read(stored), stored.path)

    def waiting(self) -> KeyPair | None:
        stored = systemd_creds.find(waiting=True)
        return None if stored is None else parse_private_key(systemd_creds.read(stored), stored.path)

    def keep_waiting(self, key: KeyPair) -> None:
        systemd_creds.store(pem(key), waiting=True)

    def switch(self) -> None:
        systemd_creds.promote()


@dataclass(frozen=True, slots=True)
class _KeyFile:
    path: Path
    passphrase_file: Path | None

    def present(self) -> KeyPair:
        return load_private_key(self.path, self.passphrase_file)

    def waiting(self) -> KeyPair | None:
        # The directory may be one of the agent's account, and this process one of root.
        if kind := kind_of(self._next):
            raise KeyFileError(
                f"{self._next} is {kind}, not a key file",
                hint=f"remove it: sudo rm -r {shlex.quote(str(self._next))}",
            )
        return load_private_key(self._next, self.passphrase_file) if self._next.exists() else None

    def keep_waiting(self, key: KeyPair) -> None:
        passphrase = self.passphrase_file and read_passphrase(self.passphrase_file)
        try:
            stat = self.path.stat()
            content = pem(key, passphrase or None)
            replace_file(self._next, content, mode=0o600, owner=(stat.st_uid, stat.st_gid))
        except OSError as error:
            raise self._write_error(error) from error

    def switch(self) -> None:
        try:
            self._next.replace(self.path)
            sync(self.path.parent)
        except OSError as error:
            raise self._write_error(error) from error

    @property
    def _next(self) -> Path:
        return self.path.with_name(f"{self.path.name}.next")

    def _write_error(self, error: OSError) -> KeyFileError | NotPermittedError:
        if isinstance(error, PermissionError):
            return NotPermittedError(
                f"{self.path}: this user may not replace the key", hint="run the same command with sudo"
            )
        return KeyFileError(
            f"{self._next}: the key cannot be written: {error.strerror}", hint=f"df -h {self.path.parent}"
        )
