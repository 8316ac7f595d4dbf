"""The agent's secrets as systemd credentials: stored for the service, readable by root.

The only module with systemd's credential paths. The unit loads both names of each secret, the private key,
the site key and the keys of readers, here of the private key:

  private_key            /etc/credstore/badge-agent.private_key; absent without that file
  private_key_encrypted  /etc/credstore.encrypted/badge-agent.private_key_encrypted as decrypted by
                         badge-agent-key.service; the text `none` if it was not
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from agent.atomic_file import replace_file, sync
from agent.errors import AgentError, KeyFileError, NotPermittedError

_log = logging.getLogger(__name__)

ETC = Path("/etc")

CredentialName = Literal["private_key", "site_key", "reader_keys"]  # as in the unit
_ENCRYPTED = "_encrypted"  # the end of the names of encrypted ones
_WAITING = ".next"
_NOT_DECRYPTED = b"none"  # SetCredential= of the unit
_PROGRAM = "systemd-creds"
_PROGRAM_TIMEOUT_S = 60.0  # creating the first host key waits for entropy on a freshly booted machine


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A stored key; an encrypted one can be decrypted on this machine only."""

    path: Path
    encrypted: bool
    name: CredentialName = "private_key"


_Remembered = tuple[StoredKey | None, bytes]
_remembered: dict[CredentialName, _Remembered | AgentError] = {}


def credential_path(name: CredentialName = "private_key") -> Path | None:
    """The credential that systemd passed to this process; None for a process that is not the service."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    encrypted, plain = Path(directory, f"{name}{_ENCRYPTED}"), Path(directory, name)
    if plain.exists() and (not encrypted.exists() or is_absent(encrypted)):
        return plain
    return encrypted


def is_absent(credential: Path) -> bool:
    """Whether this is the text in place of a secret that was not decrypted. Raises OSError."""
    return credential.stat().st_size == len(_NOT_DECRYPTED) and credential.read_bytes() == _NOT_DECRYPTED


def remember() -> None:
    """Read the stored keys before this process gives up root; find() and read() answer from memory then."""
    for name in get_args(CredentialName):
        try:
            stored = find(name)
            _remembered[name] = (stored, read(stored) if stored is not None else b"")
        except AgentError as error:
            _remembered[name] = error


def find(name: CredentialName = "private_key", *, waiting: bool = False) -> StoredKey | None:
    """The stored key (or the waiting one), None if there is none. Raises NotPermittedError."""
    if name in _remembered and not waiting:
        return _from_memory(_remembered[name])[0]
    for encrypted in (True, False):
        path = _path(name, encrypted=encrypted, waiting=waiting)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            raise _not_permitted(path) from error
        return StoredKey(path, encrypted, name)
    return None


def read(stored: StoredKey) -> bytes:
    """The PEM text, decrypted in memory only. Raises KeyFileError or NotPermittedError."""
    if stored.name in _remembered and _from_memory(_remembered[stored.name])[0] == stored:
        return _from_memory(_remembered[stored.name])[1]
    try:
        content = stored.path.read_bytes()
    except PermissionError as error:
        raise _not_permitted(stored.path) from error
    except OSError as error:
        raise KeyFileError(
            f"{stored.path}: the stored key cannot be read: {error.strerror}", hint=f"ls -l {stored.path}"
        ) from error
    if not stored.encrypted:
        return content
    plain, said = _run("decrypt", content, stored.name)
    if plain is None:
        raise KeyFileError(
            f"{stored.path}: this machine cannot decrypt the stored key ({said})",
            hint="if the SD card was moved or /var/lib/systemd/credential.secret was lost, make a new key: "
            f"sudo rm {stored.path}; sudo badge-agent setup",
        )
    return plain


def store(content: bytes, name: CredentialName = "private_key", *, waiting: bool = False) -> StoredKey:
    """Store a key, encrypted if the machine supports it, durable on return.

    A `waiting` key does not replace the present one until promote().
    Raises NotPermittedError or KeyFileError.
    """
    hidden = _encrypted(content, name)
    is_hidden = hidden is not None
    stored = StoredKey(_path(name, encrypted=is_hidden, waiting=waiting), is_hidden, name)
    try:
        stored.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(stored.path, content if hidden is None else hidden, mode=0o600)
        _remove(_path(name, encrypted=not is_hidden, waiting=waiting))
    except PermissionError as error:
        raise _not_permitted(stored.path) from error
    except OSError as error:
        raise _write_error(stored.path, error) from error
    return stored


def directory() -> Path:
    """An existing directory for unencrypted keys, of root only. Raises NotPermittedError or KeyFileError."""
    path = ETC / "credstore"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except PermissionError as error:
        raise _not_permitted(path) from error
    except OSError as error:
        raise _write_error(path, error) from error
    return path


def promote() -> StoredKey:
    """Replace the stored key by the waiting one, atomically, durable on return.

    Raises KeyFileError if there is no waiting key.
    """
    waiting = find(waiting=True)
    if waiting is None:
        raise KeyFileError("there is no waiting key", hint="sudo badge-agent key rotate")
    stored = StoredKey(_path("private_key", encrypted=waiting.encrypted, waiting=False), waiting.encrypted)
    try:
        waiting.path.replace(stored.path)
        sync(stored.path.parent)
        _remove(_path("private_key", encrypted=not stored.encrypted, waiting=False))
    except OSError as error:
        raise _write_error(stored.path, error) from error
    return stored


def _from_memory(remembered: _Remembered | AgentError) -> _Remembered:
    if isinstance(remembered, AgentError):
        raise remembered
    return remembered


def _path(name: CredentialName, *, encrypted: bool, waiting: bool) -> Path:
    directory, suffix = ("credstore.encrypted", _ENCRYPTED) if encrypted else ("credstore", "")
    return ETC / directory / f"badge-agent.{name}{suffix}{_WAITING if waiting else ''}"


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    sync(path.parent)


def _encrypted(content: bytes, name: CredentialName) -> bytes | None:
    """The content encrypted for this machine; None if it cannot be encrypted and decrypted again."""
    hidden, said = _run("encrypt", content, name)
    if hidden is not None:
        plain, said = _run("decrypt", hidden, name)
        if plain == content:
            return hidden
    _log.info("the key is stored without encryption: %s", said)
    return None


def _run(verb: str, content: bytes, name: CredentialName) -> tuple[bytes | None, str]:
    """Run systemd-creds on the content through pipes: its output, or None and the error message."""
    program = shutil.which(_PROGRAM)
    if program is None:
        return None, f"{_PROGRAM} is not installed"
    # Host key only, no TPM: a firmware update would make the key unreadable.
    options = ["--with-key=host"] if verb == "encrypt" else []
    try:
        done = subprocess.run(  # noqa: S603 - systemd's program, fixed arguments
            [program, verb, *options, f"--name={name}{_ENCRYPTED}", "-", "-"],
            input=content,
            capture_output=True,
            timeout=_PROGRAM_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{_PROGRAM}: {error}"
    if done.returncode != 0:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return None, lines[-1] if lines else f"{_PROGRAM} ended with {done.returncode}"
    return done.stdout, ""


def _not_permitted(path: Path) -> NotPermittedError:
    return NotPermittedError(
        f"{path}: only root may use the stored key", hint="run the same command with sudo"
    )


def _write_error(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        f"{path}: the key cannot be stored: {error.strerror}", hint=f"df -h {path.parent}; mount | grep ro,"
    )
