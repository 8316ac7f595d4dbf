"""A Debian with its own systemd, booted in a container."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import debian_root
from tests.support.machine import Machine, wait_until

_BOOT_S = 180.0


class BootedDebian(Machine):
    """One booted container. It shares this machine's loopback, so that a server here is 127.0.0.1 there.

    `with` unpacks a new root and boots it; leaving ends the container.
    """

    def __init__(self, release: debian_root.Release, directory: Path) -> None:
        self.release = release
        self.root = directory / release.name
        self._log = directory / f"{release.name}.console"
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        debian_root.unpack(self.release, self.root)
        # Without a login prompt, which would wait for input.
        (self.root / "etc/systemd/system/console-getty.service").symlink_to("/dev/null")
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()

    # --- power ----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Power on; returns when systemd has started all units."""
        environment = dict(os.environ)
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and self.release.name != "bookworm":
            # Newer systemd versions need the unified hierarchy, also on a host with the legacy one.
            environment["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
        with self._log.open("ab") as log:
            self._nspawn = subprocess.Popen(
                [
                    *("systemd-nspawn", "--quiet", "--directory", str(self.root), "--boot"),
                    *(
                        "--register=no",
                        "--keep-unit",
                        f"--machine=door-{os.getpid()}-{self.release.name}",
                        "--console=pipe",
                    ),
                    f"--bind={debian_root.package_cache(self.release)}:/var/cache/apt/archives",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        self._wait_for_boot()

    def reboot(self) -> None:
        """Shut down and boot again; returns when it is up."""
        nspawn, self._nspawn = self._nspawn, None
        assert nspawn is not None
        leader = _child_of(nspawn.pid)
        assert leader is not None
        subprocess.run(
            ["nsenter", f"--target={leader}", "--all", "--wd=/", "systemctl", "poweroff"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=self.command_s,
            check=False,
        )
        try:
            nspawn.wait(timeout=_BOOT_S)
        finally:
            nspawn.kill()
        self.boot()

    def cut_power(self) -> None:
        """Kill every process in it."""
        nspawn, self._nspawn = self._nspawn, None
        if nspawn is None:
            return
        leader = _child_of(nspawn.pid)
        if leader is not None:
            os.kill(leader, signal.SIGKILL)  # init of the process namespace: its end ends all others
        nspawn.kill()
        nspawn.wait(timeout=30)

    def _wait_for_boot(self) -> None:
        def is_up() -> bool:
            if self._leader() is None:
                return False
            state = self.run("systemctl", "is-system-running", check=False).strip()
            return state in {"running", "degraded"}

        wait_until(is_up, f"{self.release.name} boots (console: {self._log})", _BOOT_S)

    def _leader(self) -> int | None:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, f"the container ended: {self._log.read_text()[-2000:]}"
        return _child_of(self._nspawn.pid)

    # --- commands -------------------------------------------------------------------------------

    def words(self, *words: str) -> list[str]:
        """The host's command line that runs a command in the container as root."""
        leader = self._leader()
        assert leader is not None, "the machine is off"
        inside = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root")
        return ["nsenter", f"--target={leader}", "--all", "--wd=/", *inside, *words]

    def execute(self, *words: str, timeout_s: float) -> tuple[int, str]:
        """Run a command in it as root; returns its exit code and its output, standard error included."""
        ended = subprocess.run(
            self.words(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return ended.returncode, ended.stdout

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file in it."""
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)

    def path(self, path: str) -> Path:
        """The host's path of a file in it."""
        return self.root / path.lstrip("/")


def _child_of(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[-1]) if children else None
