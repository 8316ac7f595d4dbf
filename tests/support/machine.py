"""What tests do with a Debian that runs its own systemd, whatever it runs on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable


class Machine(ABC):
    """A booted Debian: commands and files in it, as root. A command fails after `command_s`."""

    command_s = 300.0

    @abstractmethod
    def execute(self, *words: str, timeout_s: float) -> tuple[int, str]:
        """Run a command in it; returns its exit code and its output, standard error included."""

    @abstractmethod
    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file in it."""

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command in it; returns its output. With `check`, its exit code has to be 0."""
        code, output = self.execute(*words, timeout_s=self.command_s)
        assert code == 0 or not check, f"{' '.join(words)}: exit {code}\n{output}"
        return output

    def exit_code(self, *words: str) -> int:
        """Run a command in it; returns its exit code."""
        return self.execute(*words, timeout_s=self.command_s)[0]

    def service(self, *properties: str) -> dict[str, str]:
        """Properties of the agent's unit."""
        shown = self.run("systemctl", "show", "badge-agent", *(f"--property={name}" for name in properties))
        return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)

    def journal(self, *words: str) -> str:
        """Journal of the agent's unit."""
        return self.run("journalctl", "--no-pager", "--unit=badge-agent", *words)


def wait_until(holds: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Return when `holds()` is true; fail after the timeout."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"not within {timeout_s:.0f} s: {what}"
        time.sleep(0.2)
