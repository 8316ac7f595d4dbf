"""Whether the state directory is on a disk of this machine: swipes in memory do not survive a power cut."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from agent.settings import Settings

HINT = (
    "Raspberry Pi OS with the Overlay File System: sudo raspi-config nonint disable_overlayfs; sudo reboot; "
    "otherwise put [agent] state_dir on a partition of a disk in this machine"
)
_MOUNTS = Path("/proc/self/mountinfo")
_MEMORY = frozenset({"tmpfs", "ramfs", "devtmpfs", "rootfs"})
# fuseblk is absent: it is a disk of this machine, formatted as NTFS or exFAT.
_NETWORK = re.compile(r"nfs4?|cifs|smb3|smbfs|9p|afs|ceph|fuse(\..*)?")
_MEMORY_DISK = re.compile(r"/dev/z?ram[0-9]+")
_ESCAPE = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of /proc/self/mountinfo."""

    point: PurePosixPath
    type: str
    source: str
    options: str


def state_problem(settings: Settings) -> str | None:
    """Why the state directory does not survive a power cut; None if it does, or if mounts are unknown.

    None also with an emulator as the endpoint: it is the only one with http, and its swipes are a trial.
    """
    if settings.snowflake.url.startswith("http:"):
        return None
    try:
        text = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape")
        directory = settings.agent.state_dir.resolve()
    except (OSError, RuntimeError):  # no /proc, or symbolic links in a circle
        return None
    problem = not_durable(mounts(text), PurePosixPath(directory))
    return f"the state directory {directory} is not on a disk of this machine: {problem}" if problem else None


def mounts(text: str) -> list[Mount]:
    """The mounts in the text of /proc/self/mountinfo, see proc_pid_mountinfo(5); other lines are skipped."""
    found = []
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        place, kind = before.split(" "), after.split(" ")
        if separator and len(place) >= 6 and len(kind) >= 3:  # noqa: PLR2004 - the fields of the manual
            point, source, options = (_unescaped(word) for word in (place[4], kind[1], kind[2]))
            found.append(Mount(PurePosixPath(point), kind[0], source, options))
    return found


def not_durable(mounted: list[Mount], path: PurePosixPath) -> str | None:
    """Why files under an absolute path are lost in a power cut or need a network; None if neither."""
    seen: set[PurePosixPath] = set()
    while (mount := _mount_of(mounted, path)) is not None and mount.type == "overlay":
        seen.add(mount.point)
        upper = re.search(r"(?:^|,)upperdir=([^,]*)", mount.options)
        if upper is None:
            return None  # read-only, which opening the outbox reports
        path = PurePosixPath(upper[1])
        above = _mount_of(mounted, path)
        if above is None or above.point in seen:
            # Mounted by the initramfs or by a container's host, where it cannot be seen from here.
            return f"changes to {mount.point} go to the upper layer {path} of an overlay, probably in memory"
    if mount is None:
        return None
    if mount.type in _MEMORY or _MEMORY_DISK.fullmatch(mount.source):
        return f"{mount.point} is in memory ({mount.type})"
    if _NETWORK.fullmatch(mount.type):
        return f"{mount.point} is a network or user-space file system ({mount.type})"
    return None


def _mount_of(mounted: list[Mount], path: PurePosixPath) -> Mount | None:
    """The mount with the longest mount point that holds the path; of several there, the last one mounted."""
    holding = [mount for mount in mounted if path.is_relative_to(mount.point)]
    return max(reversed(holding), key=lambda mount: len(mount.point.parts), default=None)


def _unescaped(word: str) -> str:
    """A field with its blanks and backslashes, which the kernel writes in octal."""
    return _ESCAPE.sub(lambda found: chr(int(found[1], 8)), word)
