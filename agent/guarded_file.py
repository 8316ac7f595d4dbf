"""Opens files in a directory that another account may write: no link, FIFO or device is followed."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFLNK: "a symbolic link",
}


class ForeignFileError(OSError):
    """The path is no regular file of the directory's owner; `strerror` names what it is."""


def open_guarded(path: Path, flags: int) -> int:
    """Open a regular file and return its descriptor; a file that O_CREAT makes has mode 0600.

    It must have one name, and belong to this user or to the owner of its directory. Never waits for the
    other end of a FIFO, truncates nothing that it does not accept. Raises OSError, ForeignFileError.
    """
    truncates = flags & os.O_TRUNC
    guard = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags & ~os.O_TRUNC | guard, 0o600)
    except OSError as error:
        # ELOOP: a link; ENXIO: a socket, or a FIFO that is not read; EISDIR: a directory opened for writing.
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EISDIR} and (kind := kind_of(path)):
            raise _foreign(path, f"it is {kind}, not a regular file") from error
        raise
    try:
        _check(path, os.fstat(descriptor))
        if truncates:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_guarded(path: Path, limit: int) -> bytes:
    """The content of a small file, at most `limit` bytes. Raises OSError, ForeignFileError."""
    with os.fdopen(open_guarded(path, os.O_RDONLY), "rb") as file:
        return file.read(limit)


def kind_of(path: Path) -> str | None:
    """What a path is that is no regular file, in words; None for a regular file and for no file."""
    try:
        mode = path.lstat().st_mode
    except OSError:
        return None
    return None if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no regular file")


def _check(path: Path, opened: os.stat_result) -> None:
    if not stat.S_ISREG(opened.st_mode):
        kind = _KINDS.get(stat.S_IFMT(opened.st_mode), "no regular file")
        raise _foreign(path, f"it is {kind}, not a regular file")
    if opened.st_nlink > 1:
        raise _foreign(path, "it is a hard link to a file that has another name")
    if opened.st_uid not in {os.geteuid(), path.parent.stat().st_uid}:
        raise _foreign(path, f"it belongs to another user (uid {opened.st_uid})")


def _foreign(path: Path, what: str) -> ForeignFileError:
    return ForeignFileError(errno.EPERM, f"{what}; move it away", str(path))
