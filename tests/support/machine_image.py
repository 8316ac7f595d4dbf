"""Disk images of a Debian with its own kernel for qemu: made once, then used through a cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.support import debian_root

# Those of badge-agent, so that dpkg installs it without a network, and those of the tests.
_PACKAGES = (
    *("ca-certificates", "python3-click", "python3-cryptography", "python3-jwt", "python3-rich"),
    *("python3-serial", "python3-systemd", "python3-zstandard", "sqlite-utils"),
    *("initramfs-tools", "zstd", "kmod", "iproute2", "procps", "systemd-timesyncd"),
)
_INITRD_MODULES = "virtio_pci\nvirtio_blk\next4\n"
_SIZE = "1800M"
_INSTALL_S = 3600  # under emulation of another processor
_SHELL = Path(__file__).with_name("guest_shell.py")

_FILES = {
    "etc/fstab": "/dev/vda / ext4 defaults,noatime 0 1\n",
    "etc/hostname": "door\n",
    "etc/hosts": "127.0.0.1 localhost door\n",
    "etc/machine-id": "",
    "etc/initramfs-tools/conf.d/door": "MODULES=list\nCOMPRESS=zstd\n",
    "etc/initramfs-tools/modules": _INITRD_MODULES,
    "etc/systemd/network/10-nic.network": "[Match]\nType=ether\n[Network]\nAddress=10.0.2.15/24\n",
    # Enough to see what happened, and no wait for a login.
    "etc/systemd/journald.conf.d/door.conf": "[Journal]\nStorage=persistent\nSyncIntervalSec=1s\n",
    "etc/systemd/system/guest-shell.service": (
        "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target systemd-udevd.service\n"
        "[Service]\nExecStart=/usr/bin/python3 /usr/local/sbin/guest_shell.py\n"
        "Restart=always\nKillMode=process\n"
        "[Install]\nWantedBy=sysinit.target\n"
    ),
}
_MASKED = (
    *("getty@tty1.service", "serial-getty@ttyS0.service", "serial-getty@ttyAMA0.service"),
    *("console-getty.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer"),
    *("e2scrub_reap.service", "fstrim.timer", "dpkg-db-backup.timer", "systemd-networkd-wait-online.service"),
)


@dataclass(frozen=True, slots=True)
class Image:
    """What qemu boots: a raw disk with a root file system, its kernel and its initrd. Never written to."""

    disk: Path
    kernel: Path
    initrd: Path


def image(release: debian_root.Release) -> Image:
    """The image of a release; takes a minute the first time, half an hour for another processor."""
    directory = debian_root.cache() / f"{release.name}-{release.arch}.machine-{_version()}"
    made = Image(directory / "disk.img", directory / "vmlinuz", directory / "initrd")
    with debian_root.making(directory):
        if not directory.exists():
            new = directory.with_name(f"{directory.name}.new")
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir()
            try:
                _make(release, new)
                new.replace(directory)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    return made


def _version() -> str:
    """Changes with what an image is made of."""
    made_of = repr((_PACKAGES, _SIZE, sorted(_FILES.items()), _MASKED, _SHELL.read_text()))
    return hashlib.sha256(made_of.encode()).hexdigest()[:8]


def _make(release: debian_root.Release, into: Path) -> None:
    root = into / "root"
    debian_root.unpack(release, root)
    _write(root / "usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)  # start nothing in here
    for name, text in _FILES.items():
        _write(root / name, text)
    _write(root / "usr/local/sbin/guest_shell.py", _SHELL.read_text())
    _in_root(root, "apt-get", "update")
    kernel = f"linux-image-{release.arch}"
    _in_root(root, "apt-get", "install", "--yes", "--no-install-recommends", kernel, *_PACKAGES)
    _in_root(root, "systemctl", "enable", "guest-shell", "systemd-networkd", "systemd-timesyncd")
    _in_root(root, "systemctl", "mask", *_MASKED)
    _in_root(root, "apt-get", "clean")
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), into / "vmlinuz")
    shutil.copy(next((root / "boot").glob("initrd.img-*")), into / "initrd")
    (root / "usr/sbin/policy-rc.d").unlink()
    # Without a loop device and without a mount.
    _run(
        "mke2fs",
        "-q",
        "-t",
        "ext4",
        "-E",
        "lazy_itable_init=0",
        "-d",
        str(root),
        str(into / "disk.img"),
        _SIZE,
    )
    shutil.rmtree(root)


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _in_root(root: Path, *words: str) -> None:
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    _run("chroot", str(root), *words, environment=environment)


def _run(*words: str, environment: dict[str, str] | None = None) -> None:
    ended = subprocess.run(
        words,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INSTALL_S,
        env=environment or dict(os.environ),
        check=False,
    )
    assert ended.returncode == 0, f"{' '.join(words)}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
