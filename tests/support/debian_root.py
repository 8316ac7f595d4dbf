"""Debian root file systems for tests that boot one: bootstrapped once, then unpacked from a cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

# What a Raspberry Pi OS has that a minimal Debian lacks and the tests look at.
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
        """Whether its programs run under emulation here."""
        return self.arch != host_architecture()


def unpack(release: Release, into: Path) -> None:
    """A fresh root file system; minutes the first time, seconds after that."""
    archive = _CACHE / f"{release.name}-{release.arch}.tar"
    if not archive.exists():
        _bootstrap(release, archive)
    into.mkdir(parents=True)
    _run("tar", "--extract", "--numeric-owner", "--xattrs", f"--file={archive}", f"--directory={into}")


def package_cache(release: Release) -> Path:
    """Where apt in the root finds what it has fetched before."""
    directory = _CACHE / f"{release.name}-{release.arch}.archives"
    (directory / "partial").mkdir(parents=True, exist_ok=True)
    return directory


def _bootstrap(release: Release, archive: Path) -> None:
    if release.is_foreign:
        _enable_emulation()
    _CACHE.mkdir(parents=True, exist_ok=True)
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
    """The one that this machine's own apt uses for Debian itself."""
    targets = _run("apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN) $(COMPONENT)").split("\n")
    found = [line.split()[0] for line in targets if re.search(r" Debian main$", line)]
    assert found, "apt on this machine knows no Debian repository: apt-get update"
    return next((uri for uri in found if "security" not in uri), found[0])


def host_architecture() -> str:
    """This machine's, in Debian's words."""
    return _run("dpkg", "--print-architecture").strip()


def _enable_emulation() -> None:
    if not Path("/proc/sys/fs/binfmt_misc/status").exists():
        _run("mount", "-t", "binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc")
    _run("update-binfmts", "--enable")


def _run(*words: str, timeout_s: float = 300) -> str:
    ended = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert ended.returncode == 0, f"{' '.join(words)}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
    return ended.stdout
