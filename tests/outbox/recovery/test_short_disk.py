"""A damaged outbox on a disk with a third of its size free: no second copy fits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.needs import MOUNTS, mount_namespace, needs
from tests.support.paths import ROOT

_SCRIPT = """
import os, sys
from contextlib import closing
from pathlib import Path
from agent.errors import OutboxCorruptError
from agent.outbox import Outbox
from tests.support.outbox_rig import keep, pending_rows
from tests.support.swipes import swipe

state_dir, rows = Path(sys.argv[1]), 40_000
with closing(Outbox(state_dir, agent_id="hq-lobby-1")) as outbox:
    for _ in range(rows // 1000):
        keep(outbox, 1000)
    with open(state_dir / "filler", "wb") as filler:
        disk = os.statvfs(state_dir)
        size = outbox.file.path.stat().st_size
        os.posix_fallocate(filler.fileno(), 0, disk.f_bavail * disk.f_frsize - size // 3)
    outbox._file.rebuild(OutboxCorruptError("malformed"), outbox.outbox_id)
    number = 0
    while outbox.recover_step():
        number += 1
        if number % 10 == 0:
            outbox.keep(swipe(number))
    assert outbox.pending == rows + number // 10, outbox.pending
    assert len(pending_rows(outbox)) == outbox.pending
    assert sorted(path.name for path in state_dir.glob("outbox.db.*")) == []
"""


def test_a_file_of_three_times_the_free_space_is_recovered(tmp_path: Path) -> None:
    needs(MOUNTS)
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = f'mount -t tmpfs -o size=80000000 none "{disk}" && exec "$0" "$@"'

    ended = subprocess.run(
        mount_namespace("sh", "-c", mounted, sys.executable, "-c", _SCRIPT, str(disk)),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert ended.returncode == 0, ended.stderr
