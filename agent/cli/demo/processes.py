"""The demo's processes and files: agent, emulator and two pseudo-terminals, all in one directory."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import agent
from agent.cli.demo.readers import READERS, Cable, Card, card
from agent.errors import AgentError
from agent.keys.keypair import KeyPair, generate_key
from agent.service.status_file import read_status

ACCOUNT, USER, ROLE = "MYORG-MYACCOUNT", "SFE_INGEST_USER", "SFE_INGEST_ROLE"
DATABASE, SCHEMA, PIPE = "SNOWFLAKE_EXAMPLE", "RAW_INGESTION", "SFE_BADGE_EVENTS_PIPE"

_AGENT_ID = "demo-door"
_COMMIT_LAG_S = 0.3
_HEARTBEAT_MINUTES = 0.05
_START_S = 20.0  # a Pi Zero takes this long to import an HTTP server
_STOP_S = 6.0
_POLL_S = 0.02
_REPLY_S = 10.0
_CUT_S = 0.2  # the emulator replies first and then closes the open connections

Answer = TypeVar("Answer")


class Stage:
    """The demo's processes, with their files under `directory`; close() ends them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "pipe" / "snowflake.db"
        self.url = ""
        self.agent_pid = 0
        self._control = ""
        self._cables = {reader.id: Cable() for reader in READERS}
        self._children: dict[str, subprocess.Popen[str]] = {}
        self._state_dir, self._runtime_dir = directory / "state", directory / "run"

    # --- start --------------------------------------------------------------------------------

    def make_key(self) -> KeyPair:
        """Generate the agent's private key, and write the public key for the emulator."""
        key = generate_key(self.directory / "rsa_key.p8")
        (self.directory / "rsa_key.pub").write_text(key.public_key_pem)
        return key

    def start_pipe(self) -> None:
        """Start the emulator; it listens when this returns."""
        child = self._start(
            "emulator",
            *("--port", "0", "--public-key", str(self.directory / "rsa_key.pub")),
            *("--account", ACCOUNT, "--user", USER, "--state-dir", str(self.database.parent)),
            *("--commit-lag-seconds", str(_COMMIT_LAG_S)),
        )
        assert child.stdout is not None  # noqa: S101 - for the type checker: it was started with a pipe
        for line in child.stdout:
            what, _, url = line.strip().rpartition(" on ")
            if what == "listening":
                self.url = url
            elif what == "control":
                self._control = urlsplit(url).netloc
                return
        raise self._died("emulator")

    def start_agent(self, swipes: int) -> None:
        """Configure and start `badge-agent run` for `swipes` cards; returns when its readers are open."""
        self._state_dir.mkdir(mode=0o700)
        holders = [card(number) for number in range(swipes)]
        lines = ["badge_id,user_id", *(f"{held.badge_id},{held.user_id}" for held in holders)]
        (self.directory / "cardholders.csv").write_text("\n".join(lines) + "\n")
        config = self.directory / "config.toml"
        config.write_text(self._config())
        self.agent_pid = self._start("run", "--config", str(config)).pid
        self.wait_for("the agent to open its readers", self._is_ready, _START_S)

    def _is_ready(self) -> bool | None:
        readers = self.status()["readers"]
        return (len(readers) == len(READERS) and all(r["state"] == "open" for r in readers)) or None

    def _config(self) -> str:
        readers = "".join(
            f'[[readers]]\nid = "{reader.id}"\nzone_id = "{reader.zone_id}"\n'
            f'direction = "{reader.direction}"\nprotocol = "{reader.protocol}"\nkeypad = "none"\n'
            f'port = "{self._cables[reader.id].device}"\n\n'
            for reader in READERS
        )
        return (
            f'[agent]\nid = "{_AGENT_ID}"\nstate_dir = "{self._state_dir.name}"\n'
            f'runtime_dir = "{self._runtime_dir.name}"\n'
            f"heartbeat_minutes = {_HEARTBEAT_MINUTES}\n\n{readers}"
            '[cardholders]\nfile = "cardholders.csv"\n\n'
            f'[snowflake]\naccount = "{ACCOUNT}"\nuser = "{USER}"\nrole = "{ROLE}"\n'
            f'database = "{DATABASE}"\nschema = "{SCHEMA}"\npipe = "{PIPE}"\n'
            f'private_key_file = "rsa_key.p8"\nurl = "{self.url}"\n\n'
            '[uploader]\nbackoff_max_seconds = 1\n\n[clock]\ntrust = "always"\n'
        )

    def _start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(agent.__file__).parents[1]),
            # Never use a configured proxy for addresses of this machine.
            **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
        }
        with self._log(command).open("w") as log:
            # A separate session: Ctrl-C must reach the demo only, which ends its children in order.
            child = subprocess.Popen(  # noqa: S603 - this interpreter, fixed arguments
                [sys.executable, "-m", "agent", command, *arguments],
                cwd=self.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if command == "emulator" else log,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        self._children[command] = child
        return child

    # --- control ------------------------------------------------------------------------------

    def swipe(self, shown: Card) -> int:
        """Present a card at its reader; returns CLOCK_MONOTONIC in ns after the last byte."""
        return self._cables[shown.reader.id].send(shown.frame)

    def status(self) -> dict[str, Any]:
        """The output of `badge-agent status --json`."""
        return read_status(_AGENT_ID, self._state_dir, self._runtime_dir)

    def appends(self) -> list[dict[str, Any]]:
        """The append requests of swipes that the emulator has answered, oldest first."""
        seen = self._ask("GET", "state")["seen"]
        appends = (one for one in seen if one["endpoint"] == "append" and one["status"] is not None)
        return [one for one in appends if not str(one["channel"]).endswith("-events")]

    def cut(self) -> None:
        """Make the emulator refuse connections and close the open ones."""
        self._ask("POST", "faults", {"do": "refuse"})
        time.sleep(_CUT_S)

    def restore(self) -> None:
        """Make the emulator accept connections again."""
        self._ask("POST", "faults", {"do": "clear"})

    def query(self, sql: str) -> list[dict[str, Any]]:
        """Query the emulator's database with `sqlite-utils query FILE SQL`."""
        done = subprocess.run(  # noqa: S603 - this interpreter, fixed arguments
            [sys.executable, "-m", "sqlite_utils", "query", str(self.database), sql],
            capture_output=True,
            check=False,
            text=True,
        )
        if done.returncode != 0:
            raise AgentError(f"sqlite-utils cannot read {self.database}: {done.stderr.strip()[-200:]}")
        return cast("list[dict[str, Any]]", json.loads(done.stdout))

    def wait_for(self, what: str, probe: Callable[[], Answer | None], seconds: float) -> Answer:
        """Poll until `probe()` is not None and return it. Raises AgentError after `seconds`."""
        deadline = time.monotonic() + seconds
        while (answer := probe()) is None:
            for name, child in self._children.items():
                if child.poll() is not None:
                    raise self._died(name)
            if time.monotonic() >= deadline:
                raise AgentError(
                    f"timeout after {seconds:.0f} s, waiting for {what}",
                    hint="run badge-agent demo --keep DIR and read DIR/run.log and DIR/emulator.log",
                )
            time.sleep(_POLL_S)
        return answer

    def _ask(self, method: str, what: str, rule: dict[str, str] | None = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection(self._control, timeout=_REPLY_S)
        try:
            connection.request(method, f"/_emulator/{what}", body=json.dumps(rule) if rule else None)
            return cast("dict[str, Any]", json.loads(connection.getresponse().read()))
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AgentError(f"the emulator does not answer: {type(error).__name__}") from error
        finally:
            connection.close()

    # --- stop ---------------------------------------------------------------------------------

    def _died(self, command: str) -> AgentError:
        code = self._children[command].wait()
        lines = self._log(command).read_text().splitlines()[-3:]
        return AgentError(
            f"badge-agent {command} ended with {code}: {' / '.join(lines) or 'no output'}",
            hint="run it again; if it fails again, please report this as a bug",
        )

    def _log(self, command: str) -> Path:
        return self.directory / f"{command}.log"

    def close(self) -> None:
        """End the agent, then the emulator, then close the pseudo-terminals."""
        for child in reversed(self._children.values()):
            _end(child)
        for cable in self._cables.values():
            cable.close()


def _end(child: subprocess.Popen[str]) -> None:
    try:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_S)
    finally:
        child.kill()
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
