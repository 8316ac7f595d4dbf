"""A configured agent: configuration, key, a reader on a pseudo-terminal, and the process to start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.service.status_file import read_status
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER
from tests.support.swipes import wait_until

AGENT_ID = "hq-lobby-1"
ROLE = "SFE_INGEST_ROLE"
CLOSED = "http://127.0.0.1:9"  # the discard port: no listener
FRAME = bytes.fromhex("02 30313030363345394145 3235 03")


class CliRig:
    """All files are under `directory`; `master` is the reader's end of the serial line."""

    def __init__(self, directory: Path, *, key_file: Path, url: str) -> None:
        self.directory = directory
        self.config = directory / "config.toml"
        self.state_dir, self.runtime_dir = directory / "state", directory / "run"
        self.state_dir.mkdir(mode=0o700)
        self.master, self._slave = os.openpty()
        self.port = os.ttyname(self._slave)
        self._settings = {
            "port": self.port,
            "private_key_file": str(key_file),
            "url": url,
            "pipe": PIPE,
            "ca_file": "",
            "proxy": "",
            "cardholders": "",
        }
        self.configure()

    def configure(self, **changes: str) -> None:
        """Write the configuration; changes persist for later calls."""
        self._settings |= changes
        now = self._settings
        self.config.write_text(
            f'[agent]\nid = "{AGENT_ID}"\nstate_dir = "state"\nruntime_dir = "run"\n'
            f'[[readers]]\nid = "RDR-101"\nzone_id = "ZONE-LOBBY-1"\nprotocol = "rdm6300"\n'
            f'port = "{now["port"]}"\n'
            f'[cardholders]\nfile = "{now["cardholders"]}"\n'
            f'[snowflake]\naccount = "{ACCOUNT}"\nuser = "{USER}"\nrole = "{ROLE}"\n'
            f'database = "{DATABASE}"\nschema = "{SCHEMA}"\npipe = "{now["pipe"]}"\n'
            f'private_key_file = "{now["private_key_file"]}"\n'
            f'url = "{now["url"]}"\nca_file = "{now["ca_file"]}"\nproxy = "{now["proxy"]}"\n'
            '[uploader]\nbackoff_max_seconds = 1\n[clock]\ntrust = "always"\n'
        )

    def status(self) -> dict[str, Any]:
        return read_status(AGENT_ID, self.state_dir, self.runtime_dir)

    @contextmanager
    def running_agent(self) -> Iterator[int]:
        """The real agent, once its channel and its reader are open; gives its process id."""
        agent = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--config", str(self.config)], stderr=subprocess.DEVNULL
        )
        try:
            wait_until(self._has_started, what="the agent's status with a token")
            yield agent.pid
        finally:
            agent.terminate()
            agent.wait(timeout=10)

    def _has_started(self) -> bool:
        status = self.status()
        reader_state = "open" if Path(self._settings["port"]).exists() else "lost"
        states = [reader["state"] for reader in status["readers"]]
        return bool(status["running"] and status["token"]["expires_at"] and states == [reader_state])

    def close(self) -> None:
        os.close(self.master)
        os.close(self._slave)


@dataclass(frozen=True)
class Checked:
    """Result of one run of `badge-agent check --json`."""

    code: int
    ok: bool
    findings: list[dict[str, str]]

    def named(self, name: str) -> dict[str, str]:
        (finding,) = [one for one in self.findings if one["name"] == name]
        return finding

    @property
    def failed(self) -> list[str]:
        return [one["name"] for one in self.findings if one["state"] == "failed"]


Check = Callable[..., Checked]
