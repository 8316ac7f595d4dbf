"""Debian root file systems for tests: bootstrapped once, then unpacked from a cache."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Packages of Raspberry Pi OS that the tests use and a minimal Debian lacks.
_PACKAGES = "systemd,systemd-sysv,dbus,udev,python3"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "badge-agent" / "debian"
_BOOTSTRAP_S = 1800  # under emulation of another processor


@dataclass(frozen=True, slots=True)
class Release:
    """A Debian release for one architecture."""

    name: str
    arch: str

    @property
    def is_foreign(self) -> bool:
        """True if its programs run under emulation on this machine."""
        return self.arch != host_architecture()


def unpack(release: Release, into: Path) -> None:
    """Unpack a new root file system; takes minutes the first time, then seconds."""
    archive = _CACHE / f"{release.name}-{release.arch}.tar"
    with making(archive):
        if not archive.exists():
            _bootstrap(release, archive)
    into.mkdir(parents=True)
    _run("tar", "--extract", "--numeric-owner", "--xattrs", f"--file={archive}", f"--directory={into}")


def cache() -> Path:
    """The directory that keeps what takes long to make."""
    return _CACHE


@contextlib.contextmanager
def making(kept: Path) -> Iterator[None]:
    """While something in the cache is looked for and made: of two test runs the second waits and finds it."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with kept.with_name(f"{kept.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def package_cache(release: Release) -> Path:
    """The directory in which apt caches packages across roots."""
    directory = _CACHE / f"{release.name}-{release.arch}.archives"
    (directory / "partial").mkdir(parents=True, exist_ok=True)
    return directory


def _bootstrap(release: Release, archive: Path) -> None:
    if release.is_foreign:
        _enable_emulation()
    root = archive.with_suffix(".new")
    shutil.rmtree(root, ignore_errors=True)
    try:
        _run(
            *("debootstrap", "--variant=minbase", f"--arch={release.arch}", f"--include={_PACKAGES}"),
            *(release.name, str(root), _mirror()),
            timeout_s=_BOOTSTRAP_S,
        )
        partial = archive.with_suffix(".partial")
        _run(
            "tar", "--create", "--numeric-owner", "--xattrs", f"--file={partial}", f"--directory={root}", "."
        )
        partial.replace(archive)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _mirror() -> str:
    """The Debian mirror of this machine's own apt."""
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT)").split("\n")
    found = [line.split()[0] for line in targets if re.search(r" Debian main$", line)]
    assert found, "apt on this machine knows no Debian repository: apt-get update"
    return next((uri for uri in found if "security" not in uri), found[0])


def host_architecture() -> str:
    """This machine's architecture, as Debian names it."""
    return _run("dpkg", "--print-architecture").strip()


def _enable_emulation() -> None:
    if not Path("/proc/sys/fs/binfmt_misc/status").exists():
        _run("mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc")
    _run("update-binfmts", "--enable")


def _run(*words: str, timeout_s: float = 300) -> str:
    ended = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert ended.returncode == 0, f"{' '.join(words)}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout
