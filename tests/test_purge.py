"""The scripts of the package: purging where directories are mounts or links, and udev's names of adapters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.needs import MOUNTS, ROOT_USER, mount_namespace, needs
from tests.support.paths import ROOT

_FILES = "outbox.db outbox.db-wal outbox.lock outbox.open.lock reserve"


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


@pytest.mark.parametrize(("script", "action"), [("postinst", "configure"), ("postrm", "remove")])
def test_the_rules_of_the_package_come_and_go_for_adapters_that_are_plugged_in(
    script: str, action: str, tmp_path: Path
) -> None:
    """A stand-in for udevadm: udev itself needs a kernel of its own, as in tests/machine."""
    program = tmp_path / "udevadm"
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    listen = "import socket; socket.socket(socket.AF_UNIX).bind('/run/udev/control')"

    done = subprocess.run(
        mount_namespace(
            *("sh", "-ec"),
            f"""for place in /run /usr/share; do mount -t tmpfs none $place; done
                mkdir /run/udev; {sys.executable} -I -S -c "{listen}"
                PATH={tmp_path}:$PATH sh {ROOT}/debian/badge-agent.{script} {action}""",
        ),
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    reload, trigger = done.stdout.splitlines()
    assert reload == "control --reload"
    assert {"--action=change", "--sysname-match=ttyUSB*", "--sysname-match=ttyACM*"} <= set(trigger.split())
