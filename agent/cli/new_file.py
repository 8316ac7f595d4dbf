"""Makes the file that a command was asked to write, without following or replacing anything."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agent.errors import AgentError


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A new file of mode 0600 from its creation, on disk at the end; removed if the body raises.

    Raises AgentError if it exists, also as a symbolic link, or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise AgentError(
            f"{path}: {error.strerror}", hint="name a new file in a directory that this user may write"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise incomplete(path, error) from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def incomplete(path: Path, error: OSError) -> AgentError:
    """The error to raise when a file could not be written completely."""
    return AgentError(
        f"{path}: {error.strerror}; the incomplete file was removed",
        hint="free some space, or name a file on another disk",
    )
