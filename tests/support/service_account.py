"""A service's account and its directories on this machine, and commands that root runs on them."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from agent.cli import main
from tests.support.cli_rig import AGENT_ID, CLOSED
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER

UID = 64_999  # no account of any machine
LONGEST_S = 20.0


@dataclass(frozen=True, slots=True)
class Ended:
    """A finished command; `code` is negative after a signal."""

    code: int
    output: str
    seconds: float


class ServiceAccount:
    """State and runtime directory of a user UID; `outside`: a directory of root that must not change."""

    def __init__(self, key_file: Path) -> None:
        # Not below pytest's own directory, which only root may enter.
        self.directory = Path(tempfile.mkdtemp(prefix="badge-agent-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.state_dir, self.runtime_dir = self.directory / "state", self.directory / "run"
        self.outside = self.directory / "root"
        self.config = self.directory / "config.toml"
        for directory, mode in ((self.state_dir, 0o700), (self.runtime_dir, 0o755)):
            directory.mkdir(mode=mode)
            os.chown(directory, UID, UID)
        self.outside.mkdir()
        key = self.directory / "rsa_key.p8"
        key.write_bytes(key_file.read_bytes())
        key.chmod(0o600)
        os.chown(key, UID, UID)
        self.configure(f'private_key_file = "{key}"')
        self._ends = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.directory)

    def configure(self, snowflake: str, *, url: str = CLOSED, more: str = "") -> None:
        self.config.write_text(
            f'[agent]\nid = "{AGENT_ID}"\nstate_dir = "state"\nruntime_dir = "run"\n'
            '[[readers]]\nid = "RDR-101"\nzone_id = "ZONE-LOBBY-1"\nprotocol = "rdm6300"\n'
            'port = "/dev/serial/by-id/none"\n'
            f'[snowflake]\naccount = "{ACCOUNT}"\nuser = "{USER}"\n'
            f'database = "{DATABASE}"\nschema = "{SCHEMA}"\npipe = "{PIPE}"\nurl = "{url}"\n{snowflake}\n'
            f'[uploader]\nbackoff_max_seconds = 0.1\n[clock]\ntrust = "always"\n{more}'
        )

    def run(self, *arguments: str) -> Ended:
        """A command of root, in a process of its own; killed after LONGEST_S."""
        return self.call(lambda: main([*arguments, "--config", str(self.config)]))

    def call(self, function: Callable[[], int]) -> Ended:
        """A function in a process of its own, which may give up root."""
        output = self.directory.parent / f"{self.directory.name}.out"
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _run(function, output)
        while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() - started > LONGEST_S:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        _, status = os.waitpid(pid, 0)
        text = output.read_text()
        output.unlink()
        return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - started)

    def as_service(self, function: Callable[[], int]) -> Ended:
        """A function of the account itself."""

        def change() -> int:
            os.setgroups([])
            os.setresgid(UID, UID, UID)
            os.setresuid(UID, UID, UID)
            return function()

        return self.call(change)

    def foreign_files(self) -> list[Path]:
        """What is in the state and runtime directories and does not belong to the account."""
        return [
            path
            for directory in (self.state_dir, self.runtime_dir)
            for path in directory.iterdir()
            if path.lstat().st_uid != UID
        ]


def _run(function: Callable[[], int], output: Path) -> None:
    code = 99
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        import sys  # noqa: PLC0415

        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ["BADGE_AGENT_TRACEBACK"] = "1"
        code = function()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:  # noqa: BLE001 - no test function may go on in the child
        traceback.print_exc()
    finally:
        os._exit(code)
