"""A directory in which chosen reads, writes and flushes of a process fail with an errno."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

_END = 2**60


class FailingDisk:
    """The state directory of a process, and the rules by which its disk fails."""

    def __init__(self, library: Path, place: Path) -> None:
        self.state_dir = place / "state"
        self.state_dir.mkdir()
        self.rules = place / "rules"
        self.rules.touch()
        self._library = library

    def fail(self, kind: str, name: str, first: int = 0, last: int = _END, *, code: int = errno.EIO) -> None:
        """From now on: "r", "w" or "f" (flush) of the bytes first..last of a file (or "*") fails.

        Bad sectors belong to the file that has the name now, not to another that gets it later.
        """
        which = name if name == "*" else (self.state_dir / name).stat().st_ino
        with self.rules.open("a") as file:
            file.write(f"{kind} {which} {first} {last} {code}\n")

    def recover(self) -> None:
        """From now on nothing fails."""
        self.rules.write_text("")

    def run(self, script: str) -> str:
        """Run Python with this disk; `state_dir` and `disk` are defined. Returns its output."""
        begin = f"""
import json, sys
from contextlib import closing
from pathlib import Path
from tests.support.failing_disk import FailingDisk
from tests.support.outbox_rig import *
from tests.support.swipes import swipe
disk = FailingDisk.__new__(FailingDisk)
disk.rules = Path({str(self.rules)!r})
disk.state_dir = state_dir = Path({str(self.state_dir)!r})
"""
        ended = subprocess.run(
            [sys.executable, "-c", begin + script],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
            cwd=ROOT,
            env=os.environ
            | {
                "LD_PRELOAD": str(self._library),
                "FAILING_DISK": str(self.rules),
                "FAILING_DISK_DIR": str(self.state_dir),
            },
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout
