"""Purging the package, on a machine whose directories are mounts or links."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import ROOT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for mounts of its own")

_FILES = "outbox.db outbox.db-wal outbox.lock reserve"


def purge(before: str, after: str) -> str:
    """Run the script on empty directories of the system, in a mount namespace of its own."""
    script = f"""
set -e
for place in /var/lib /etc /run /usr/share; do mount -t tmpfs none $place; done
{before}
sh {ROOT}/debian/badge-agent.postrm purge
{after}
"""
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr:
        pytest.skip("needs the right to mount")
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_a_state_directory_that_is_a_mount_is_emptied() -> None:
    output = purge(
        f"""mkdir /var/lib/badge-agent; mount -t tmpfs none /var/lib/badge-agent
            cd /var/lib/badge-agent; touch {_FILES}""",
        "ls -A /var/lib/badge-agent",
    )

    assert (
        output == "badge-agent: /var/lib/badge-agent is a mount point or in use: it was emptied and is kept\n"
    )


def test_a_state_directory_that_is_a_link_loses_the_agents_files_only(tmp_path: Path) -> None:
    purge(
        f"""cd {tmp_path}; touch {_FILES} other
            ln -s {tmp_path} /var/lib/badge-agent""",
        "test ! -e /var/lib/badge-agent",
    )

    assert [path.name for path in tmp_path.iterdir()] == ["other"]
