from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest

from agent.config.loader import load
from agent.service import state_disk
from agent.service.state_disk import mounts, not_durable, state_problem
from tests.support.cli_rig import CLOSED, CliRig
from tests.support.needs import MOUNTS, mount_namespace, needs
from tests.support.paths import ROOT

STATE = PurePosixPath("/var/lib/badge-agent")
DISK = "27 1 179:2 / / rw,noatime shared:1 - ext4 /dev/mmcblk0p2 rw"
# Raspberry Pi OS 12 with the Overlay File System (package overlayroot).
OVERLAY_ROOT = """\
21 27 0:20 / /proc rw,nosuid - proc proc rw
26 27 179:2 / /media/root-ro ro,relatime shared:1 - ext4 /dev/mmcblk0p2 ro
25 27 0:24 / /media/root-rw rw,relatime shared:2 - tmpfs tmpfs-root rw
27 1 0:25 / / rw,relatime shared:3 - overlay overlayroot rw,lowerdir=/media/root-ro,\
upperdir=/media/root-rw/overlay,workdir=/media/root-rw/overlay-workdir/_
"""
# Raspberry Pi OS 11: mounted by the initramfs, whose directories are not visible later.
HIDDEN_UPPER = (
    "27 1 0:25 / / rw - overlay overlay rw,lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work"
)
RUN = """
%s
cd "$1"
"$2" -m agent run --config "$3" 2>"$4/log" & pid=$!
n=0; until [ -e "$4/run/status.json" ] || [ $n = 300 ]; do sleep 0.1; n=$((n + 1)); done
"$2" -m agent status --json --config "$3" >"$4/status"
"$2" -m agent check --offline --json --config "$3" >"$4/check"
kill $pid; wait $pid
"""
TMPFS = 'mount -t tmpfs -o mode=0700 tmpfs "$4/state"'
OVERLAY = """
mkdir "$4/rw" && mount -t tmpfs tmpfs "$4/rw" && mkdir -m 0700 "$4/rw/upper" "$4/rw/work" &&
mount -t overlay -o lowerdir="$4/state",upperdir="$4/rw/upper",workdir="$4/rw/work" overlay "$4/state"
"""


def over(*lines: str, path: PurePosixPath = STATE) -> str | None:
    return not_durable(mounts("\n".join(lines)), path)


@pytest.mark.parametrize("how", [TMPFS, OVERLAY], ids=["tmpfs", "overlay"])
def test_a_state_directory_in_memory_is_reported_by_log_status_and_check(
    tmp_path: Path, rsa_key_file: Path, how: str
) -> None:
    needs(MOUNTS)
    # https: an endpoint with http is an emulator, where nothing is reported.
    door = CliRig(tmp_path, key_file=rsa_key_file, url=CLOSED.replace("http:", "https:"))

    script = mount_namespace("sh", "-c", RUN % how, "sh", str(ROOT), sys.executable, str(door.config))
    subprocess.run([*script, str(tmp_path)], check=True, timeout=120)
    door.close()

    (line,) = [text for text in (tmp_path / "log").read_text().splitlines() if " ERROR " in text]
    status, check = (json.loads((tmp_path / name).read_text()) for name in ("status", "check"))
    (disk,) = [finding for finding in check["findings"] if finding["name"] == "disk"]
    assert f"{door.state_dir} is not on a disk of this machine" in line
    assert "is in memory (tmpfs)" in line
    assert status["running"]
    assert not status["outbox"]["ok"]
    assert "is in memory (tmpfs)" in status["outbox"]["problem"]
    assert (disk["state"], check["ok"]) == ("failed", False)
    assert "is in memory (tmpfs)" in disk["text"]
    assert "raspi-config nonint disable_overlayfs" in disk["next"]


def test_on_a_trial_with_an_emulator_nothing_is_reported(
    tmp_path: Path, rsa_key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = CliRig(tmp_path, key_file=rsa_key_file, url=CLOSED)
    table = tmp_path / "mountinfo"
    table.write_text("27 1 0:25 / / rw - tmpfs tmpfs rw\n")
    monkeypatch.setattr(state_disk, "_MOUNTS", table)

    trial = load(door.config)
    real = replace(trial, snowflake=replace(trial.snowflake, url="https://x.snowflakecomputing.com"))
    door.close()

    assert state_problem(trial) is None
    assert "in memory (tmpfs)" in (state_problem(real) or "")


# --- the table of mounts ---------------------------------------------------------------------------


def test_a_disk_is_durable() -> None:
    assert over(DISK, "30 27 0:24 / /run rw - tmpfs tmpfs rw") is None


@pytest.mark.parametrize("lines", [OVERLAY_ROOT, HIDDEN_UPPER])
def test_an_overlay_is_as_durable_as_its_upper_layer(lines: str) -> None:
    assert "memory" in (over(lines) or "")


def test_an_overlay_with_its_upper_layer_on_a_disk_is_durable() -> None:
    upper = "30 27 8:1 / /data rw - ext4 /dev/sda1 rw"
    overlay = "31 27 0:26 / /var/lib rw - overlay overlay rw,lowerdir=/a,upperdir=/data/up,workdir=/data/w"

    assert over(DISK, upper, overlay) is None


@pytest.mark.parametrize(
    ("kind", "source", "word"),
    [
        ("tmpfs", "tmpfs", "memory"),
        ("ramfs", "none", "memory"),
        ("ext4", "/dev/zram1", "memory"),
        ("nfs", "nas:/doors", "network"),
        ("nfs4", "nas:/doors", "network"),
        ("cifs", "//nas/doors", "network"),
        ("fuse.sshfs", "me@nas:", "network"),
        ("fuseblk", "/dev/sda1", ""),
        ("btrfs", "/dev/sda1", ""),
        ("f2fs", "/dev/mmcblk0p3", ""),
    ],
)
def test_a_file_system_is_known_by_its_type(kind: str, source: str, word: str) -> None:
    problem = over(DISK, f"30 27 0:40 / /var/lib rw - {kind} {source} rw")

    assert problem is None if not word else word in (problem or "")


def test_the_longest_mount_point_counts_and_of_equal_ones_the_last() -> None:
    memory = "30 27 0:40 / /var/lib rw - tmpfs tmpfs rw"
    disk = "31 27 8:1 / {} rw - ext4 /dev/sda1 rw"

    assert over(memory, disk.format("/var/lib/badge-agent"), DISK) is None
    assert over(DISK, memory, disk.format("/var/lib")) is None
    assert over(DISK, disk.format("/var/lib"), memory) is not None
    assert over(DISK, memory, path=PurePosixPath("/var/library")) is None


def test_a_mount_point_with_a_blank_is_read() -> None:
    memory = r"30 27 0:40 / /the\040door rw - tmpfs tmpfs rw"

    assert over(DISK, memory, path=PurePosixPath("/the door/state")) is not None


@pytest.mark.parametrize("text", ["", "\n\n", "27 1", " - ", "27 1 0:1 / / rw - ext4", "x" * 9999])
def test_a_table_that_cannot_be_read_reports_nothing(text: str) -> None:
    assert over(text) is None


def test_overlays_in_a_circle_come_to_an_end() -> None:
    one = "30 27 0:40 / /a rw - overlay o rw,upperdir=/b/up"
    other = "31 27 0:41 / /b rw - overlay o rw,upperdir=/a/up"

    assert "probably in memory" in (over(DISK, one, other, path=PurePosixPath("/a/x")) or "")
