"""A disk that is full, read-only or failing, and a reader that comes and goes."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_process import PtyReader, reader_table
from tests.support.chaos_rig import QUICK, ChaosRig
from tests.support.in_parallel import Running, Scenario, add, at_once, names
from tests.support.needs import LOOP_MOUNTS, MOUNTS, SYSTEMD_PYTHON, Need, mount_namespace, needs
from tests.support.outbox_rig import looked_up
from tests.support.paths import ROOT
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

# linux/fs/ext4/ext4.h: the file system fails from now on, as it does when its card dies.
_EXT4_IOC_SHUTDOWN = 0x8004_587D
_NO_LOG_FLUSH = 2
# linux/fs.h: every write waits from the first on, until the second.
_FIFREEZE, _FITHAW = 0xC004_5877, 0xC004_5878

_SMALL = QUICK + "\n[outbox]\nreserve_bytes = 1_000_000\n"


def on_a_disk_of_its_own(*wanted: Need) -> Callable[[Scenario], Scenario]:
    """A scenario that runs as a process in a mount namespace of its own, if the machine allows it."""

    def decorate(scenario: Scenario) -> Scenario:
        def run(place: Path) -> None:
            needs(*wanted)
            code = f"import pathlib, {__name__} as m; m.{scenario.__name__}(pathlib.Path({str(place)!r}))"
            ended = subprocess.run(
                mount_namespace(sys.executable, "-c", code),
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
            )
            assert ended.returncode == 0, ended.stdout + ended.stderr

        add(scenario.__name__.replace("_", " "), __name__, run)
        return scenario

    return decorate


@contextmanager
def a_disk(place: Path, *mount: str) -> Iterator[Path]:
    """A small disk with the agent's state directory on it."""
    disk = place / "door" / "state"
    disk.mkdir(parents=True)
    subprocess.run(["mount", *mount, disk], check=True)
    try:
        disk.chmod(0o700)
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def tmpfs(size: int) -> Sequence[str]:
    return "-t", "tmpfs", "-o", f"size={size}", "none"


def free(disk: Path) -> int:
    """Bytes."""
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


def fill(disk: Path, *, leave: int) -> None:
    with (disk / "filler").open("ab") as filler:
        os.posix_fallocate(filler.fileno(), 0, free(disk) - leave)


def take_until_some_wait(stage: ChaosRig) -> None:
    """Present tags until there is no room for them; with pauses, as on a busy machine it would be a flood."""
    for group in itertools.count(1):
        if stage.reader()["unkept"]:
            return
        if group % 4 == 0:
            stage.rest()
        stage.take(200)


@on_a_disk_of_its_own(MOUNTS)
def the_disk_is_full_for_a_while(place: Path) -> None:
    with a_disk(place, *tmpfs(12_000_000)) as disk, ChaosRig(place, tables=_SMALL) as stage:
        stage.swipe(50)
        stage.wait_until_delivered()
        stage.pipe.stop()
        fill(disk, leave=8_192)

        # There is room in the WAL, then in the reserve, then nowhere.
        take_until_some_wait(stage)
        assert not stage.status()["outbox"]["ok"]
        assert free(disk) < 65_536
        wait_until(lambda: "half of the reserve of" in stage.agent.log, what="the used reserve in the log")
        (disk / "filler").unlink()
        wait_until(lambda: stage.status()["outbox"]["ok"], what="room again")
        stage.pipe.start()

        stage.swipe(5)
        stage.assert_delivered()


@on_a_disk_of_its_own(MOUNTS)
def the_disk_is_full_of_what_is_already_committed(place: Path) -> None:
    with a_disk(place, *tmpfs(12_000_000)) as disk, ChaosRig(place, tables=_SMALL) as stage:
        for _ in range(3):
            stage.present(1000, per_second=1000)
            stage.swipe(1)
            stage.assert_delivered()
            stage.rest()
        fill(disk, leave=4_096)

        for _ in range(4):
            stage.present(900, per_second=900)  # fewer than memory holds, should the purge be slow
            stage.swipe(1)
            stage.wait_until_delivered()
            stage.rest()

        stage.assert_delivered()


@on_a_disk_of_its_own(MOUNTS)
def the_disk_stays_full_and_the_network_comes_back(place: Path) -> None:
    with a_disk(place, *tmpfs(12_000_000)) as disk, ChaosRig(place, tables=_SMALL) as stage:
        stage.swipe(50)
        stage.wait_until_delivered()
        stage.pipe.stop()
        fill(disk, leave=8_192)
        take_until_some_wait(stage)
        stage.pipe.start()

        stage.wait_until_delivered()
        stage.swipe(500)
        stage.assert_delivered()


@on_a_disk_of_its_own(MOUNTS)
def the_disk_is_read_only_at_the_start(place: Path) -> None:
    with a_disk(place, *tmpfs(12_000_000)) as disk, ChaosRig(place, tables=_SMALL) as stage:
        stage.pipe.stop()
        stage.swipe(20)
        for stop in (stage.stop, stage.kill):
            stop()
            subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
            refused = stage.command("run")
            assert refused.returncode == 74
            assert "next: " in refused.stderr
            assert "read-only" in refused.stderr.lower()
            subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
            stage.agent.start()
            stage.swipe(20)
        stage.pipe.start()

        stage.assert_delivered()


def a_card(place: Path) -> Path:
    """A small ext4, in a file."""
    place.mkdir()
    image = place / "card.img"
    with image.open("wb") as file:
        file.truncate(24_000_000)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    return image


@on_a_disk_of_its_own(LOOP_MOUNTS, SYSTEMD_PYTHON)
def the_disk_takes_nothing_for_a_while_and_the_watchdog_is_starved(place: Path) -> None:
    image = a_card(place)
    impatient = "from agent.service import supervisor\nsupervisor._WRITER_HUNG_S = 1.0"
    with (
        ServiceManager(place / "manager", watchdog_s=0.6) as manager,
        a_disk(place, "-o", "loop", str(image)) as disk,
        ChaosRig(place, tables=_SMALL, under=manager, but_first=impatient) as stage,
    ):
        stage.swipe(20)
        root = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(root, _FIFREEZE, 0)
        try:
            stage.present(1)
            wait_until(lambda: "writer: hangs" in stage.agent.log, what="a writer that hangs in a flush")
            fed = manager.heard("WATCHDOG=1")
            time.sleep(1.2)
            assert manager.heard("WATCHDOG=1") == fed
        finally:
            fcntl.ioctl(root, _FITHAW, 0)
            os.close(root)
        wait_until(lambda: manager.heard("WATCHDOG=1") > fed, what="a watchdog that is fed")
        stage.swipe(20)

        stage.assert_delivered()


@on_a_disk_of_its_own(LOOP_MOUNTS)
def the_disk_fails_while_it_runs(place: Path) -> None:
    image = a_card(place)
    with a_disk(place, "-o", "loop", str(image)) as disk, ChaosRig(place, tables=_SMALL) as stage:
        stage.pipe.stop()
        stage.swipe(20)
        root = os.open(disk, os.O_RDONLY)
        fcntl.ioctl(root, _EXT4_IOC_SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        os.close(root)
        stage.line.present(999_999)  # waits in memory, with the cause in the log
        wait_until(lambda: stage.reader()["unkept"] == 1, what="a swipe in memory")
        assert not stage.status()["outbox"]["ok"]
        wait_until(lambda: "dmesg" in stage.agent.log, what="the cause in the log")
        assert stage.agent.end()[0] == 0
        assert "1 swipes in memory are lost" in stage.agent.log
        stage.kept_so_far()
        assert stage.command("run").returncode == 74
        subprocess.run(["umount", disk], check=True)
        subprocess.run(["mount", "-o", "loop", image, disk], check=True)
        stage.agent.start()
        stage.swipe(20)
        stage.pipe.start()

        stage.assert_delivered()


@on_a_disk_of_its_own(MOUNTS)
def another_program_holds_the_outbox_for_long(place: Path) -> None:
    with a_disk(place, *tmpfs(12_000_000)) as disk, ChaosRig(place, tables=_SMALL) as stage:
        stage.pipe.stop()
        stage.swipe(20)
        with closing(sqlite3.connect(disk / "outbox.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            stage.take(30)
            wait_until(
                lambda: "sudo fuser -v" in stage.agent.log, what="the cause in the log", timeout_s=30.0
            )
            assert "dmesg" not in stage.agent.log
            other.rollback()
        wait_until(lambda: stage.status()["outbox"]["ok"], what="stored swipes")
        stage.swipe(20)
        stage.pipe.start()

        stage.assert_delivered()


@on_a_disk_of_its_own(MOUNTS)
def the_disk_is_full_with_swipes_in_memory_at_a_stop(place: Path) -> None:
    """There is no reserve left at the stop either: what finds no room is one line with its number."""
    tables = QUICK + "\n[outbox]\nreserve_bytes = 0\n"
    with a_disk(place, *tmpfs(12_000_000)) as disk, ChaosRig(place, tables=tables) as stage:
        stage.swipe(50)
        stage.wait_until_delivered()
        stage.pipe.stop()
        fill(disk, leave=8_192)
        take_until_some_wait(stage)
        assert stage.agent.end()[0] == 0
        lost = re.findall(r"(\d+) swipes in memory are lost", stage.agent.log)
        assert len(lost) == 1
        (disk / "filler").unlink()
        ((kept,),) = looked_up(disk, "SELECT max(n) FROM swipes")
        assert kept + int(lost[0]) == len(stage.tags)
        stage.tags = stage.tags[:kept]
        stage.kept_so_far()
        stage.pipe.start()
        stage.agent.start()

        stage.assert_delivered()


@on_a_disk_of_its_own(MOUNTS)
def the_memory_is_full_too_and_then_there_is_room_while_cards_are_read(place: Path) -> None:
    """Without a reserve: the state ends all the same, and no new swipe is refused any more."""
    tables = QUICK + "\n[outbox]\nreserve_bytes = 0\n"
    with a_disk(place, *tmpfs(12_000_000)) as disk, ChaosRig(place, tables=tables) as stage:
        stage.swipe(50)
        stage.wait_until_delivered()
        stage.pipe.stop()
        fill(disk, leave=8_192)
        for _ in range(30):
            if stage.reader()["lost"]:
                break
            stage.present(200)
            stage.rest()
        time.sleep(1.0)  # until the last of them is read
        read, lost = stage.reader(), stage.reader()["lost"]
        kept = read["swipes"] + read["unkept"]
        assert kept + lost == len(stage.tags)
        stage.tags = stage.tags[:kept]
        (disk / "filler").unlink()
        stage.line.present_steadily(range(50_001, 50_021), 10.0)
        stage.tags += range(50_001, 50_021)

        wait_until(lambda: stage.reader()["unkept"] == 0, what="room again")
        assert stage.reader()["lost"] == lost
        stage.pipe.start()
        stage.assert_delivered()


@on_a_disk_of_its_own(MOUNTS)
def a_reader_floods_a_small_disk(place: Path) -> None:
    place.mkdir()
    flooding = PtyReader(place / "flooding")
    more = [reader_table(flooding.device, reader_id="RDR-102")]
    with (
        flooding,
        a_disk(place, *tmpfs(12_000_000)),
        ChaosRig(place, tables=_SMALL, more_readers=more) as stage,
    ):

        def flood() -> dict[str, Any]:
            return next(one for one in stage.agent.status()["readers"] if one["id"] == "RDR-102")

        first = 1_000_000
        while not flood()["flood_refused"]:
            flooding.present_steadily(range(first, first + 200), 100.0)
            first += 200
        stored = flood()["swipes"]
        stage.present(20)

        wait_until(lambda: stage.kept() >= stored + 20, what="the swipes of the other reader")
        assert (flood()["flooding"], flood()["swipes"], flood()["lost"]) == (True, stored, 0)
        refused = flood()["flood_refused"]
        assert stored + refused == first - 1_000_000
        shown = stage.command("status").stdout
        assert "open, flooding" in shown
        assert f"more than 20 swipes a second; {refused} were refused" in shown
        stage.agent.end()
        assert f"RDR-102: its swipes are stored again; {refused} were refused" in stage.agent.log
        assert stage.agent.log.count("a broken or hostile device") == 1


@at_once
def the_reader_is_unplugged_in_the_middle_of_a_frame(place: Path) -> None:
    with ChaosRig(place) as stage:
        for cut in (1, 5, 13):
            stage.swipe(3)
            stage.line.write(b"\x02010063E9AE8B\x03"[:cut])
            time.sleep(0.05)
            stage.line.unplug()
            wait_until(lambda: stage.reader()["state"] == "lost", what="a lost reader")
            stage.line.plug_in()
            wait_until(lambda: stage.reader()["state"] == "open", what="an open reader")

        stage.swipe(3)
        stage.assert_delivered()


@pytest.mark.parametrize("scenario", names(__name__))
def test_what_was_kept_is_delivered_when(running: Running, scenario: str) -> None:
    running[scenario].result()
