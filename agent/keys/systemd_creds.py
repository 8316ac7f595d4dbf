"""The private key as a systemd credential: stored for the service, readable by root.

The only module with systemd's credential paths. The unit loads both names; one of the two files exists:

  LoadCredential=private_key:badge-agent.private_key
  LoadCredentialEncrypted=private_key_encrypted:badge-agent.private_key_encrypted
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agent.atomic_file import replace_file, sync
from agent.errors import AgentError, KeyFileError, NotPermittedError

_log = logging.getLogger(__name__)

ETC = Path("/etc")

_PLAIN, _ENCRYPTED = "private_key", "private_key_encrypted"  # as in the unit
_WAITING = ".next"
_PROGRAM = "systemd-creds"
_PROGRAM_TIMEOUT_S = 60.0  # creating the first host key waits for entropy on a freshly booted machine


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A stored key; an encrypted one can be decrypted on this machine only."""

    path: Path
    encrypted: bool


_Remembered = tuple[StoredKey | None, bytes]
_remembered: _Remembered | AgentError | None = None


def credential_path() -> Path | None:
    """The credential that systemd passed to this process; None for a process that is not the service."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return None
    encrypted, plain = Path(directory, _ENCRYPTED), Path(directory, _PLAIN)
    return encrypted if encrypted.exists() else plain


def remember() -> None:
    """Read the stored key before this process gives up root; find() and read() answer from memory then."""
    global _remembered  # noqa: PLW0603 - as the rights of the process, it belongs to all of it
    try:
        stored = find()
        _remembered = (stored, read(stored) if stored is not None else b"")
    except AgentError as error:
        _remembered = error


def find(*, waiting: bool = False) -> StoredKey | None:
    """The stored key (or the waiting one), None if there is none. Raises NotPermittedError."""
    if _remembered is not None and not waiting:
        return _from_memory(_remembered)[0]
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
    if _remembered is not None and _from_memory(_remembered)[0] == stored:
        return _from_memory(_remembered)[1]
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
    stored = StoredKey(_path(encrypted=waiting.encrypted, waiting=False), waiting.encrypted)
    try:
        waiting.path.replace(stored.path)
        sync(stored.path.parent)
        _remove(StoredKey(_path(encrypted=not stored.encrypted, waiting=False), not stored.encrypted))
    except OSError as error:
        raise _write_error(stored.path, error) from error
    return stored


def _from_memory(remembered: _Remembered | AgentError) -> _Remembered:
    if isinstance(remembered, AgentError):
        raise remembered
    return remembered


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
