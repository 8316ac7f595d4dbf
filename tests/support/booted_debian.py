"""A Debian with its own systemd, booted in a container: what a Raspberry Pi is to the package."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support import debian_root

_BOOT_S = 180.0
_COMMAND_S = 300.0


class BootedDebian:
    """One booted container. It shares this machine's loopback, so that a server here is 127.0.0.1 there.

    `with` unpacks a fresh root and boots it; leaving takes both away.
    """

    def __init__(self, release: debian_root.Release, directory: Path) -> None:
        self.release = release
        self.root = directory / release.name
        self._log = directory / f"{release.name}.console"
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        debian_root.unpack(self.release, self.root)
        # Two kinds of waiting for nothing: a login prompt, and a clock that only the host may set.
        (self.root / "etc/systemd/system/console-getty.service").symlink_to("/dev/null")
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cut_power()

    # --- power ----------------------------------------------------------------------------------

    def boot(self) -> None:
        """Power on; returns when its systemd has started what it has to start."""
        environment = dict(os.environ)
        if not Path("/sys/fs/cgroup/cgroup.controllers").exists() and self.release.name != "bookworm":
            # Newer systemds start on the unified hierarchy only, also where this machine still has the old.
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
        """Shut down in order and start again. Returns when it is up."""
        nspawn, self._nspawn = self._nspawn, None
        assert nspawn is not None
        leader = _child_of(nspawn.pid)
        assert leader is not None
        subprocess.run(
            ["nsenter", f"--target={leader}", "--all", "--wd=/", "systemctl", "poweroff"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_COMMAND_S,
            check=False,
        )
        try:
            nspawn.wait(timeout=_BOOT_S)
        finally:
            nspawn.kill()
        self.boot()

    def cut_power(self) -> None:
        """Everything in it ends at once."""
        nspawn, self._nspawn = self._nspawn, None
        if nspawn is None:
            return
        leader = _child_of(nspawn.pid)
        if leader is not None:
            os.kill(leader, signal.SIGKILL)  # the init of its process namespace: all others go with it
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

    # --- hands at its keyboard ------------------------------------------------------------------

    def words(self, *words: str) -> list[str]:
        """The command line by which this machine starts a command in that one, as root."""
        leader = self._leader()
        assert leader is not None, "the machine is off"
        inside = ("env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "HOME=/root")
        return ["nsenter", f"--target={leader}", "--all", "--wd=/", *inside, *words]

    def run(self, *words: str, check: bool = True, timeout_s: float = _COMMAND_S) -> str:
        """Run a command in it, as root; what it printed, errors and all."""
        ended = subprocess.run(
            self.words(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if check:
            assert ended.returncode == 0, f"{' '.join(words)}: exit {ended.returncode}\n{ended.stdout}"
        return ended.stdout

    def exit_code(self, *words: str) -> int:
        """Run a command in it for its exit code."""
        return subprocess.run(
            self.words(*words), stdin=subprocess.DEVNULL, capture_output=True, timeout=_COMMAND_S, check=False
        ).returncode

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """A file in it."""
        place = self.path(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        place.chmod(mode)

    def path(self, path: str) -> Path:
        """Where a file of that machine lies on this one."""
        return self.root / path.lstrip("/")

    def service(self, *properties: str) -> dict[str, str]:
        """What its systemd says of the agent's unit."""
        shown = self.run("systemctl", "show", "badge-agent", *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def journal(self, *words: str) -> str:
        """What the agent's unit has in the journal."""
        return self.run("journalctl", "--no-pager", "--unit=badge-agent", *words)


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Return when it holds; fail when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.2)


def _child_of(pid: int) -> int | None:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except FileNotFoundError:
        return None
    return int(children[-1]) if children else None
