"""Purging the package, on a machine whose directories are mounts or links."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.needs import MOUNTS, ROOT_USER, mount_namespace, needs
from tests.support.paths import ROOT

_FILES = "outbox.db outbox.db-wal outbox.lock reserve"


@pytest.fixture(autouse=True)
def _mounts_of_its_own() -> None:
    needs(ROOT_USER, MOUNTS)


def purge(before: str, after: str) -> str:
    """Run the script on empty directories of the system, in a mount namespace of its own."""
    script = f"""
set -e
for place in /var/lib /etc /run /usr/share; do mount -t tmpfs none $place; done
{before}
sh {ROOT}/debian/badge-agent.postrm purge
{after}
"""
    words = mount_namespace("sh", "-c", script)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
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
