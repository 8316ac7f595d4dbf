"""What some tests need beyond the README's packages, and the one way to skip a test without it."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import termios
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

import pytest

REAL_UART = "/dev/ttyS0"
_REASON = re.compile(r"needs (?P<what>.+?)(?: \[apt: (?P<packages>[^]]*)\])?$")


@dataclass(frozen=True, slots=True)
class Need:
    """Something of the machine. `packages` are the Debian packages that bring it; empty if none does."""

    what: str
    is_met: Callable[[], bool]
    packages: str = ""


def needs(*wanted: Need) -> None:
    """Skip the running test, with the reason, unless this machine has all of these.

    Call it from a test, a fixture or a rig.
    """
    for need in wanted:
        if not _is_met(need):
            pytest.skip(f"needs {need.what}" + (f" [apt: {need.packages}]" if need.packages else ""))


def compiler() -> str:
    """The C compiler; skips the running test where there is none."""
    needs(COMPILER)
    found = _compiler()
    assert found is not None
    return found


def summary(reasons: Iterable[str]) -> str:
    """One line: how many tests were skipped for what, and how to run them; from the reasons of all skips."""
    counts: Counter[str] = Counter()
    packages: set[str] = set()
    for reason in reasons:
        found = _REASON.fullmatch(reason.removeprefix("Skipped: "))
        counts[found["what"] if found else "another reason (pytest -rs)"] += 1
        packages.update((found["packages"] or "").split() if found else ())
    if not counts:
        return "No test was skipped."
    parts = ", ".join(f"{count} for want of {what}" for what, count in counts.most_common())
    line = f"{counts.total()} {'test was' if counts.total() == 1 else 'tests were'} skipped: {parts}."
    if packages:
        line += f" To run more of them: sudo apt install {' '.join(sorted(packages))}"
    return line


@cache
def _is_met(need: Need) -> bool:
    return need.is_met()


def _compiler() -> str | None:
    found = shutil.which("cc") or shutil.which("gcc")
    return found if found and _succeeds(found, "-E", "-include", "stdio.h", "-x", "c", "/dev/null") else None


def _succeeds(*words: str) -> bool:
    try:
        return subprocess.run(words, capture_output=True, check=False, timeout=30).returncode == 0
    except FileNotFoundError:
        return False


def _has_systemd_python() -> bool:
    # The folder systemd/ of the checkout is found as a namespace package; it has no origin.
    spec = importlib.util.find_spec("systemd")
    return spec is not None and spec.origin is not None


def mount_namespace(*words: str) -> list[str]:
    """The command line that runs these words where what they mount is seen by themselves only."""
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--mount", "--propagation", "private", *user, *words]


def _counts_errors() -> bool:
    try:
        fd = os.open(REAL_UART, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            fcntl.ioctl(fd, termios.TIOCGICOUNT, bytes(80))
        finally:
            os.close(fd)
    except OSError:
        return False
    return True


def _may_mount() -> bool:
    return _succeeds(*mount_namespace("mount", "-t", "tmpfs", "tmpfs", "/mnt"))


def _may_mount_a_file() -> bool:
    script = (
        "set -e; mount -t tmpfs tmpfs /mnt; truncate -s 8M /mnt/image; mkfs.ext4 -q /mnt/image;"
        "mkdir /mnt/disk; mount -o loop /mnt/image /mnt/disk; umount /mnt/disk"
    )
    return _succeeds(*mount_namespace("sh", "-c", script))


COMPILER = Need("a C compiler", lambda: _compiler() is not None, "gcc libc6-dev")
STREAMLIT = Need(
    "streamlit (.venv/bin/pip install -e '.[dashboard]')",
    lambda: importlib.util.find_spec("streamlit") is not None,
)
# `make test` installs it where it can be built.
SYSTEMD_PYTHON = Need(
    "systemd-python", _has_systemd_python, "gcc libc6-dev libsystemd-dev pkg-config python3-dev"
)
OPENSSL = Need("openssl", lambda: shutil.which("openssl") is not None, "openssl")
SYSTEMD_ANALYZE = Need("systemd-analyze", lambda: shutil.which("systemd-analyze") is not None, "systemd")
CHROMIUM = Need("chromium", lambda: shutil.which("chromium") is not None, "chromium")
PROMTOOL = Need("promtool", lambda: shutil.which("promtool") is not None, "prometheus")
PROMETHEUS = Need("prometheus", lambda: shutil.which("prometheus") is not None, "prometheus")
NODE_EXPORTER = Need(
    "node_exporter",
    lambda: shutil.which("prometheus-node-exporter") is not None,
    "prometheus-node-exporter",
)
ROOT_USER = Need("root", lambda: os.getuid() == 0)
MOUNTS = Need("permission to mount", _may_mount, "mount")
COUNTING_UART = Need(f"a UART that counts its errors at {REAL_UART}", _counts_errors)
LOOP_MOUNTS = Need("permission to mount a file as an ext4 disk", _may_mount_a_file, "e2fsprogs mount")
SHARED_MEMORY = Need("a memory file system at /dev/shm", lambda: os.path.ismount("/dev/shm"))  # noqa: S108 - no file
COUNTED_WRITES = Need("a disk whose writes the kernel counts", lambda: False)  # who wants it has tried
WHEELS = Need(
    f"wheels of duckdb and the vendor's SDK, which {platform.machine()} does not have",
    lambda: platform.machine() in {"x86_64", "AMD64", "aarch64", "arm64"},
)
LIBOSDP = Need(
    "libosdp (.venv/bin/pip install -e '.[osdp]')", lambda: importlib.util.find_spec("osdp") is not None
)
