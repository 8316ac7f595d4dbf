"""A machine to set up: /etc, /dev and programs in a folder; commands run as real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.support.programs import install, working_systemd_creds

# The installed command with the machine's paths replaced.
_PROGRAM = """
import sys
from pathlib import Path
from agent import settings
from agent.cli import main
from agent.config import loader
from agent.keys import systemd_creds
from agent.readers import port_names
from agent.readers.detect import own_uart
from agent.service import systemctl
root = Path(sys.argv.pop(1))
systemd_creds.ETC, port_names.DEV, systemctl.BOOTED = root / "etc", root / "dev", root / "booted"
port_names.SYS_TTY, port_names.UDEV_LINKS = root / "sys", root / "links"
own_uart.COMMAND_LINE = root / "cmdline"
settings.AgentSettings.state_dir, settings.AgentSettings.runtime_dir = root / "state", root / "run"
loader.DEFAULT_CONFIG = root / "etc/badge-agent/config.toml"
sys.exit(main(sys.argv[1:]))
"""


class SetupRig:
    """`with_systemd` installs a systemctl that records its calls and keeps the state of the service."""

    def __init__(self, root: Path, *, with_systemd: bool = True) -> None:
        self.root = root
        self.etc = root / "etc"
        self.config = self.etc / "badge-agent" / "config.toml"
        self.programs = root / "bin"
        self.runtime_dir = root / "run"
        for folder in (self.etc, root / "dev", self.programs, root / "state"):
            folder.mkdir(parents=True)
        working_systemd_creds(self.programs)
        if with_systemd:
            (root / "booted").mkdir()
            install(
                self.programs,
                "systemctl",
                f'echo "$*" >>{root}/calls\n'
                'case "$1" in\n'
                f"  is-active) [ -e {root}/active ] ;;\n"
                f"  enable|restart) touch {root}/active ;;\n"
                f'  reload) kill -HUP "$(cat {root}/pid)" ;;\n'
                "esac",
            )

    def plug_in(self, name: str, device: str = "/dev/null") -> str:
        """Add a serial adapter under /dev/serial/by-id; returns its path."""
        link = self.root / "dev" / "serial" / "by-id" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(device)
        return str(link)

    def claim(self, link: str, *devices: str) -> None:
        """Record, as udev does, that these devices claim a name under /dev."""
        name = link.removeprefix(f"{self.root}/dev/").replace("/", "\\x2f")
        (self.root / "links" / name).mkdir(parents=True)
        for device in devices:
            (self.root / "links" / name / device).touch()

    @property
    def told(self) -> list[str]:
        """The calls of systemctl that change something."""
        try:
            lines = (self.root / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if not line.startswith(("cat", "is-active"))]

    @property
    def environment(self) -> dict[str, str]:
        """Environment of a command on this machine."""
        return {
            **os.environ,
            "PATH": f"{self.programs}:{os.environ['PATH']}",
            "BADGE_AGENT_CONFIG": str(self.config),
        }

    def command(self, *words: str) -> Sequence[str]:
        """Command line that runs badge-agent on this machine."""
        return [sys.executable, "-c", _PROGRAM, str(self.root), *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command without a terminal."""
        return subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment,
            check=False,
        )
