"""Reads files that hold a secret; one that other users can read is refused."""

from __future__ import annotations

import os
import shlex
from datetime import UTC, datetime
from pathlib import Path

from agent.errors import KeyFileError, NotPermittedError

LARGEST_FILE_BYTES = 65_536  # a 16384-bit key in PEM has 13,000
# Elsewhere file modes mean nothing: Windows reports 0666 for every writable file.
_HAS_FILE_MODES = os.name == "posix"


def read_secret(path: Path, what: str) -> bytes:
    """Read a file with one secret, without its final newline. Raises KeyFileError or NotPermittedError."""
    content, _ = read_secret_file(path, what, f"write the {what} into it (mode 0600), or correct the path")
    secret = content.rstrip(b"\r\n")
    if not secret:
        raise KeyFileError(f"{path}: the {what} file is empty", hint=f"write the {what} into it")
    return secret


def read_secret_file(path: Path, what: str, if_missing: str) -> tuple[bytes, datetime]:
    """A file with a secret, and when it was modified. Raises KeyFileError or NotPermittedError."""
    try:
        with path.open("rb") as file:
            stat = os.fstat(file.fileno())
            content = file.read(LARGEST_FILE_BYTES)
    except FileNotFoundError as error:
        raise KeyFileError(f"{path}: no such {what} file", hint=if_missing) from error
    except PermissionError as error:
        raise NotPermittedError(
            f"{path}: this user may not read the {what} file",
            hint=f"run the same command with sudo, or give the agent's user the file: "
            f"sudo chown badge-agent {shlex.quote(str(path))}",
        ) from error
    except OSError as error:
        raise KeyFileError(
            f"{path}: the {what} file cannot be read: {error.strerror}",
            hint=f"check the path: ls -ld {shlex.quote(str(path))}",
        ) from error
    # systemd creates credentials group-readable, in a directory that other users cannot enter.
    mode = stat.st_mode & 0o777
    if _HAS_FILE_MODES and mode & (0o037 if is_credential(path) else 0o077):
        raise KeyFileError(
            f"{path}: the {what} file is accessible to other users (mode {mode:04o})",
            hint=f"chmod 600 {shlex.quote(str(path))}",
        )
    return content, datetime.fromtimestamp(stat.st_mtime, UTC)


def is_credential(path: Path) -> bool:
    """Whether systemd passed this file to the process."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return directory is not None and path.resolve().is_relative_to(Path(directory).resolve())
