"""Repeated kill -9 of the agent and of the server during swipes."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.agent_process import raws
from tests.support.chaos_rig import QUICK, ChaosRig, assert_histories_are_whole
from tests.support.in_parallel import Running, add, at_once, names
from tests.support.rounds import ROUNDS, chances
from tests.support.swipes import wait_until

_DOORS = 4
_KILLS_A_DOOR = 26  # of the agent; more than a hundred at all doors together
_KILLED_AT_START = 0.25
_FAULTY = 0.05  # chance of a fault with every few swipes
_FAULTS: tuple[dict[str, Any], ...] = (
    {"do": "drop_before", "times": 2},
    {"do": "drop_after", "times": 2},
    {"do": "delay", "seconds": 0.3, "times": 3},
    {"do": "status", "status": 503, "times": 2},
    {"do": "status", "status": 429, "retry_after": 0.5, "times": 1},
    {"do": "status", "status": 401, "times": 2},
    {"do": "refuse", "seconds": 0.4},
    {"do": "expire_tokens"},
    {"do": "invalidate_channel"},
    {"do": "invalidate_channel", "appends": "refused"},
    {"do": "stall_commits"},
    {"do": "resume_commits"},
)


@dataclass(frozen=True)
class Life:
    """What one process may have done: it had kept the first `kept` of these when it was last asked."""

    presented: list[int]
    kept: int


def one_life(stage: ChaosRig, random: Random) -> Life:
    """Start the agent, present swipes at random moments, kill it at another one, or while it starts."""
    stage.agent.start(wait=False)
    if random.random() < _KILLED_AT_START:
        time.sleep(random.random() * 0.8)
        stage.agent.kill()
        return Life([], 0)
    # Bytes sent before the port is open were not read.
    wait_until(lambda: stage.is_open, what="an open reader")
    presented: list[int] = []
    kept = 0
    die_at = time.monotonic() + random.random() * 0.8
    while time.monotonic() < die_at:
        count = random.choice((0, 1, 1, 2, 5))
        stage.present(count, per_second=random.choice((50, 5_000)))
        presented += stage.tags[len(stage.tags) - count :]
        kept = stage.reader()["swipes"]
        if random.random() < _FAULTY:
            stage.pipe.fault(**random.choice(_FAULTS))
        time.sleep(random.random() * 0.02)
    stage.agent.kill()
    return Life(presented, kept)


def killed_again_and_again(door: int, place: Path) -> None:
    random = chances("kill", door)
    lives = []
    with ChaosRig(place) as stage:
        stage.agent.kill()
        for number in range(_KILLS_A_DOOR * ROUNDS):
            lives.append(one_life(stage, random))
            if number % 5 == 4:
                stage.pipe.kill()
                stage.pipe.start()
        stage.pipe.fault("clear")
        stage.agent.start()
        wait_until(lambda: stage.agent.outbox().pending == 0, what="no pending swipes")
        time.sleep(0.2)
        rows = stage.rows()

    assert_each_life_is_a_beginning([row["card_raw"] for row in rows], lives)
    assert len({row["event_id"] for row in rows}) == len(rows)
    assert_histories_are_whole(rows)
    assert len({row["outbox_id"] for row in rows}) == 1
    assert len(rows) > 5 * len(lives)


def assert_each_life_is_a_beginning(arrived: list[str], lives: list[Life]) -> None:
    """Of what was presented in a life the first ones arrived, once and in order, and all that were kept.

    The others had not been read, or not been kept, when the process was killed.
    """
    place = 0
    for life in lives:
        presented = raws(life.presented)
        count = 0
        while count < len(presented) and arrived[place + count : place + count + 1] == [presented[count]]:
            count += 1
        assert count >= life.kept
        place += count
    assert place == len(arrived)


for _door in range(_DOORS):
    add(
        f"the agent is killed at any moment at door {_door}", __name__, partial(killed_again_and_again, _door)
    )


# --- replay ---------------------------------------------------------------------------------

# So slow that a replay of some hundred rows takes seconds.
_SLOW = QUICK + "max_bytes_per_second = 60_000\n"


def replay(stage: ChaosRig, *words: str) -> subprocess.Popen[bytes]:
    """Request it without waiting."""
    return subprocess.Popen(
        [sys.executable, "-m", "agent", "replay", *words, "--config", str(stage.agent.config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def replayed(stage: ChaosRig) -> list[int]:
    return [row["seq"] for row in stage.rows() if row["replay"]]


def wait_until_replayed(stage: ChaosRig, count: int) -> None:
    wait_until(lambda: len(replayed(stage)) >= count, what=f"{count} replayed rows")


@at_once
def a_replay_is_killed_in_the_middle(place: Path) -> None:
    random = chances("replay")
    with ChaosRig(place, tables=_SLOW) as stage:
        stage.present(400, per_second=1000)
        stage.swipe(1)
        stage.assert_delivered()
        asking = replay(stage, "--from", "51", "--to", "350")
        for share in (30, 100, 200):
            wait_until_replayed(stage, share)
            stage.kill()
            time.sleep(random.random() * 0.2)
            stage.agent.start()
        asking.wait(30)
        wait_until_replayed(stage, 300)
        wait_until(lambda: stage.agent.outbox().replays == 0, what="an empty queue")

        assert replayed(stage) == list(range(51, 351))
        live = [row["card_raw"] for row in stage.rows() if not row["replay"]]
        assert live == raws(stage.tags)


@at_once
def a_replay_without_an_agent_is_killed_and_an_agent_goes_on_with_it(place: Path) -> None:
    with ChaosRig(place, tables=_SLOW) as stage:
        stage.present(400, per_second=1000)
        stage.swipe(1)
        stage.assert_delivered()
        stage.stop()
        asking = replay(stage, "--from", "1")
        wait_until_replayed(stage, 50)
        asking.kill()
        asking.wait()
        stage.agent.start()
        wait_until(lambda: stage.agent.outbox().replays == 0, what="an empty queue")

        assert replayed(stage) == list(range(1, 402))
        assert_histories_are_whole(stage.rows())


@at_once
def swipes_come_in_while_a_replay_goes_on(place: Path) -> None:
    with ChaosRig(place, tables=_SLOW) as stage:
        stage.present(400, per_second=1000)
        stage.swipe(1)
        stage.assert_delivered()
        asking = replay(stage, "--from", "1", "--to", "400")
        wait_until_replayed(stage, 20)
        for _ in range(5):
            stage.swipe(1)
            stage.wait_until_delivered()
        during = len(replayed(stage))

        assert asking.wait(60) == 0
        assert during < 400
        assert replayed(stage) == list(range(1, 401))
        live = [row["card_raw"] for row in stage.rows() if not row["replay"]]
        assert live == raws(stage.tags)


@pytest.mark.parametrize("scenario", names(__name__))
def test_nothing_kept_is_lost_or_doubled_when(running: Running, scenario: str) -> None:
    running[scenario].result()
