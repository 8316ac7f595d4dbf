"""What may happen to the file with the swipes: another card, a backup, a copy, damage."""

from __future__ import annotations

import os
import re
import shutil
import time
from contextlib import closing
from functools import partial
from itertools import pairwise, product
from pathlib import Path
from random import Random

import pytest

from agent.outbox import Outbox
from agent.outbox.database import PAGE_BYTES
from tests.support.agent_process import AGENT_ID, raws
from tests.support.chaos_rig import ChaosRig, assert_histories_are_whole, held, once_per_event
from tests.support.in_parallel import Running, add, at_once, names
from tests.support.rounds import ROUNDS, chances
from tests.support.swipes import swipe, wait_until


def outbox_ids(stage: ChaosRig) -> list[str]:
    return list(dict.fromkeys(row["outbox_id"] for row in stage.rows()))


# --- which card it is -----------------------------------------------------------------------


@at_once
def the_sd_card_is_new(place: Path) -> None:
    with ChaosRig(place) as stage:
        for _ in range(3):
            stage.swipe(10)
            stage.assert_delivered()
            stage.stop()
            shutil.rmtree(stage.agent.state_dir)
            stage.agent.state_dir.mkdir(mode=0o700)
            stage.agent.start()
        stage.swipe(10)

        stage.assert_delivered()
        assert len(outbox_ids(stage)) == 4


def a_backup_comes_back(since: int, offline: int, place: Path) -> None:
    """After so many swipes that it does not know; then it takes others before it has a network."""
    with ChaosRig(place) as stage:
        stage.swipe(10)
        stage.assert_delivered()
        stage.stop()
        backup = shutil.copytree(stage.agent.state_dir, place / "backup")
        stage.agent.start()
        stage.swipe(since)
        stage.wait_until_delivered()
        stage.stop()
        shutil.rmtree(stage.agent.state_dir)
        shutil.copytree(backup, stage.agent.state_dir)
        stage.pipe.stop()
        stage.agent.start()
        stage.swipe(offline)
        stage.pipe.start()
        stage.swipe(3)

        stage.assert_delivered()
        assert len(outbox_ids(stage)) == 2


for _since, _offline in ((20, 5), (20, 17), (20, 50), (1, 1)):
    add(
        f"a backup misses {_since} swipes and takes {_offline} offline",
        __name__,
        partial(a_backup_comes_back, _since, _offline),
    )


@at_once
def a_backup_with_pending_swipes_comes_back_after_they_were_sent(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(10)
        stage.wait_until_delivered()
        stage.pipe.stop()
        stage.swipe(10)
        stage.stop()
        backup = shutil.copytree(stage.agent.state_dir, place / "backup")
        stage.pipe.start()
        stage.agent.start()
        stage.assert_delivered()
        stage.stop()
        shutil.rmtree(stage.agent.state_dir)
        shutil.copytree(backup, stage.agent.state_dir)
        stage.agent.start()
        stage.swipe(5)

        stage.assert_delivered()
        # Its swipes are no reason for a new id; the door events sent meanwhile are, if they are sent before
        # the five new ones.
        before = [row for row in stage.rows() if row["card_raw"] in raws(stage.tags[:-5])]
        assert len({row["outbox_id"] for row in before}) == 1
        assert len(outbox_ids(stage)) <= 2


@at_once
def the_card_was_copied_to_another_machine(place: Path) -> None:
    # Not every machine has an id of its own, so this one is given one.
    machine = place.with_name(f"{place.name}-machine")
    machine.write_text("this machine")
    has_id = (
        "from pathlib import Path\nfrom agent.service import build\n"
        f"build.machine_id = lambda: Path({str(machine)!r}).read_text()"
    )
    with ChaosRig(place, but_first=has_id) as stage:
        stage.swipe(10)
        stage.wait_until_delivered()
        stage.pipe.stop()
        stage.swipe(10)
        stage.stop()
        machine.write_text("another machine")
        stage.pipe.start()
        stage.agent.start()
        stage.swipe(10)

        stage.assert_delivered()
        assert len(outbox_ids(stage)) == 2
        assert "SD card copied" in stage.agent.log


@at_once
def the_door_is_renamed_with_rows_on_their_way(place: Path) -> None:
    with ChaosRig(place, commit_lag_seconds=0.5) as stage:
        config = stage.agent.config
        for old, new in pairwise((AGENT_ID, "north-door", "south-door", AGENT_ID)):
            stage.swipe(10)
            stage.kill()
            config.write_text(config.read_text().replace(f'"{old}"', f'"{new}"'))
            stage.agent.start()
            stage.swipe(5)

        stage.assert_delivered()
        assert len(outbox_ids(stage)) <= 4
        assert {row["agent_id"] for row in stage.rows()} == {AGENT_ID, "north-door", "south-door"}


@at_once
def a_second_agent_is_started_on_the_same_directory(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(10)

        second = stage.command("run")
        stage.swipe(10)

        stage.assert_delivered()
        assert second.returncode == 74
        assert f"another badge-agent (pid {stage.agent.pid})" in second.stderr


# --- damage ---------------------------------------------------------------------------------


def _pages(file: Path, random: Random) -> None:
    with file.open("r+b") as content:
        for page in random.sample(range(1, file.stat().st_size // 1024), 12):
            content.seek(page * 1024)
            content.write(random.randbytes(1024))


def _header(file: Path, random: Random) -> None:
    with file.open("r+b") as content:
        content.write(random.randbytes(4096))


def _half(file: Path, _random: Random) -> None:
    os.truncate(file, file.stat().st_size // 2)


def _nothing(file: Path, _random: Random) -> None:
    os.truncate(file, 0)


def _wal(file: Path, random: Random) -> None:
    wal = file.with_name(file.name + "-wal")
    size = wal.stat().st_size if wal.exists() else 0
    wal.write_bytes(random.randbytes(max(size, 50_000)))


_DAMAGES = {
    "pages": _pages,
    "its header": _header,
    "its second half": _half,
    "all of it": _nothing,
    "the WAL": _wal,
}


@at_once
def pages_of_pending_rows_of_a_large_file_are_damaged_before_a_start(place: Path) -> None:
    """They are found after the file was opened, while cards are read already."""
    with ChaosRig(place) as stage:
        stage.pipe.stop()
        stage.stop()
        with closing(Outbox(stage.agent.state_dir, agent_id=AGENT_ID)) as outbox:
            for _ in range(80):  # more than is checked before the first swipe
                outbox.keep(*map(swipe, range(500)))
        random = chances("pages of pending rows", 0)
        with (stage.agent.state_dir / "outbox.db").open("r+b") as file:
            pages = file.seek(0, os.SEEK_END) // PAGE_BYTES
            for page in random.sample(range(pages // 2, pages - 10), 5):
                file.seek(page * PAGE_BYTES)
                file.write(random.randbytes(PAGE_BYTES))
        stage.agent.start(wait=False)
        wait_until(lambda: stage.agent.log.count("reader RDR-101: open on") == 2, what="the reader")
        stage.present(50, per_second=50)

        wait_until(lambda: stage.kept() == 50, what="every swipe during the start")
        assert "in memory are lost" not in stage.agent.log


def the_file_is_damaged(what: str, moment: str, number: int, place: Path) -> None:
    random, while_running = chances(f"damage to {what} {moment}", number), moment == "while it runs"
    with ChaosRig(place) as stage:
        stage.swipe(200)
        stage.wait_until_delivered()
        stage.pipe.stop()
        stage.swipe(100)
        if not while_running:
            stage.stop()
        _DAMAGES[what](stage.agent.state_dir / "outbox.db", random)
        if not while_running:
            stage.agent.start()
        stage.swipe(20)
        stage.pipe.start()
        stage.swipe(20)
        time.sleep(0.5)
        # Damage not found so far is found at the next start.
        stage.restart()
        stage.swipe(20)

        damaged = range(1, 341 if while_running else 301)
        stage.wait_until_delivered(without=damaged)
        wait_until(lambda: stage.agent.outbox().pending == 0, what="no pending swipes")
        arrived = [row["card_raw"] for row in once_per_event(stage.rows())]
        assert arrived == [raw for raw in raws(stage.tags) if raw in set(arrived)]
        lost = len(stage.tags) - len(arrived)
        assert lost == 0 or what in ("pages", "its second half", "all of it", "the WAL")
        # Rows that were not found, and rows that are not as they were stored: no other row is held.
        holds = held(stage)
        assert all(re.match("lost|damaged", hold["reason"]) for hold in holds), holds
        counted = sum(hold["rows"] for hold in holds)
        if what == "pages":
            assert lost <= counted
        # Where other software cuts the open file or changes its log, an older state of it may return, with
        # the rows that were delivered since: their numbers are among the lost ones.
        is_older = while_running and what in ("its second half", "all of it", "the WAL")
        assert_histories_are_whole(stage.rows(), holes=max(lost, counted) + (200 if is_older else 0))


for _number, _what, _moment in product(range(ROUNDS), _DAMAGES, ("while it is stopped", "while it runs")):
    add(
        f"damage to {_what} {_moment} {_number}",
        __name__,
        partial(the_file_is_damaged, _what, _moment, _number),
    )


@pytest.mark.parametrize("scenario", names(__name__))
def test_the_door_goes_on_and_no_swipe_is_swallowed_when(running: Running, scenario: str) -> None:
    running[scenario].result()
