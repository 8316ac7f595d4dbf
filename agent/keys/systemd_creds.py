"""The private key as a systemd credential: stored for the service, readable by root.

The only module with systemd's credential paths. The unit loads both names:

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

from agent.atomic_file import replace_file, sync
from agent.errors import KeyFileError, NotPermittedError

_log = logging.getLogger(__name__)

ETC = Path("/etc")

_PLAIN, _ENCRYPTED = "private_key", "private_key_encrypted"  # as in the unit
_WAITING = ".next"
_NOT_DECRYPTED = b"none"  # SetCredential= of the unit
_PROGRAM = "systemd-creds"
_PROGRAM_TIMEOUT_S = 60.0  # creating the first host key waits for entropy on a freshly booted machine


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A stored key; an encrypted one can be decrypted on this machine only."""

    path: Path
    encrypted: bool


def credential_path() -> Path | None:
    """The credential that systemd passed to this process; None for a process that is not the service."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    encrypted, plain = Path(directory, _ENCRYPTED), Path(directory, _PLAIN)
    if plain.exists() and (not encrypted.exists() or is_absent(encrypted)):
        return plain
    return encrypted


def is_absent(credential: Path) -> bool:
    """Whether this is the text in place of a key that was not decrypted. Raises OSError."""
    return credential.stat().st_size == len(_NOT_DECRYPTED) and credential.read_bytes() == _NOT_DECRYPTED


def find(*, waiting: bool = False) -> StoredKey | None:
    """The stored key (or the waiting one), None if there is none. Raises NotPermittedError."""
    for encrypted in (True, False):
        path = _path(encrypted=encrypted, waiting=waiting)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except PermissionError as error:
            raise _not_permitted(path) from error
        return StoredKey(path, encrypted)
    return None


def read(stored: StoredKey) -> bytes:
    """The PEM text, decrypted in memory only. Raises KeyFileError or NotPermittedError."""
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
    plain, said = _run("decrypt", content)
    if plain is None:
        raise KeyFileError(
            f"{stored.path}: this machine cannot decrypt the stored key ({said})",
            hint="if the SD card was moved or /var/lib/systemd/credential.secret was lost, make a new key: "
            f"sudo rm {stored.path}; sudo badge-agent setup",
        )
    return plain


def store(content: bytes, *, waiting: bool = False) -> StoredKey:
    """Store a key, encrypted if the machine supports it, durable on return.

    A `waiting` key does not replace the present one until promote().
    Raises NotPermittedError or KeyFileError.
    """
    secret = _encrypted(content)
    stored = StoredKey(_path(encrypted=secret is not None, waiting=waiting), secret is not None)
    try:
        stored.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(stored.path, content if secret is None else secret, mode=0o600)
        _remove(StoredKey(_path(encrypted=not stored.encrypted, waiting=waiting), not stored.encrypted))
    except PermissionError as error:
        raise _not_permitted(stored.path) from error
    except OSError as error:
        raise _write_error(stored.path, error) from error
    return stored


def promote() -> StoredKey:
    """Replace the stored key by the waiting one, atomically, durable on return.

    Raises KeyFileError if there is no waiting key.
    """
    waiting = find(waiting=True)
    if waiting is None:
        raise KeyFileError("there is no waiting key", hint="sudo badge-agent key rotate")
    stored = StoredKey(_path(encrypted=waiting.encrypted, waiting=False), waiting.encrypted)
    try:
        waiting.path.replace(stored.path)
        sync(stored.path.parent)
        _remove(StoredKey(_path(encrypted=not stored.encrypted, waiting=False), not stored.encrypted))
    except OSError as error:
        raise _write_error(stored.path, error) from error
    return stored


def _path(*, encrypted: bool, waiting: bool) -> Path:
    directory, name = ("credstore.encrypted", _ENCRYPTED) if encrypted else ("credstore", _PLAIN)
    return ETC / directory / f"badge-agent.{name}{_WAITING if waiting else ''}"


def _remove(stored: StoredKey) -> None:
    try:
        stored.path.unlink()
    except (FileNotFoundError, NotADirectoryError):
        return
    sync(stored.path.parent)


def _encrypted(content: bytes) -> bytes | None:
    """The content encrypted for this machine; None if it cannot be encrypted and decrypted again."""
    secret, said = _run("encrypt", content)
    if secret is not None:
        plain, said = _run("decrypt", secret)
        if plain == content:
            return secret
    _log.info("the key is stored without encryption: %s", said)
    return None


def _run(verb: str, content: bytes) -> tuple[bytes | None, str]:
    """Run systemd-creds on the content through pipes: its output, or None and the error message."""
    program = shutil.which(_PROGRAM)
    if program is None:
        return None, f"{_PROGRAM} is not installed"
    # Host key only, no TPM: a firmware update would make the key unreadable.
    options = ["--with-key=host"] if verb == "encrypt" else []
    try:
        done = subprocess.run(  # noqa: S603 - systemd's program, fixed arguments
            [program, verb, *options, f"--name={_ENCRYPTED}", "-", "-"],
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
