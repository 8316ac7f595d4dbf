"""Lost replies, refusals and delays at every endpoint lose no swipe."""

from __future__ import annotations

import time
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import pytest

from agent.clock.system_clock import boottime_s
from tests.support.chaos_rig import ChaosRig, appends
from tests.support.in_parallel import Running, add, at_once, names
from tests.support.swipes import wait_until

_STATUSES: list[dict[str, Any]] = [
    {"status": 408},
    {"status": 429},
    {"status": 429, "retry_after": 1},
    {"status": 500},
    {"status": 502},
    {"status": 503},
    {"status": 503, "retry_after": 1},
    {"status": 401},
    {"status": 403},
    {"status": 404},
    {"status": 409},
]
_FAULTS = [
    *({"do": "status", "times": 2, **keys} for keys in _STATUSES),
    {"do": "drop_before", "times": 2},
    {"do": "drop_after", "times": 1},
    {"do": "delay", "times": 1, "seconds": 0.5},
]
# What makes the agent come to an endpoint that it has no need of every day.
_WAYS: dict[str, list[dict[str, Any]]] = {
    "hostname": [],  # see lose_the_host()
    "token": [{"do": "expire_tokens"}],
    "open": [{"do": "invalidate_channel", "appends": "refused"}],
    "append": [],
    "status": [],
}


def lose_the_host(stage: ChaosRig) -> None:
    """Refuse connections until the agent has met that: it asks then where its rows are taken."""

    def has_met_it() -> bool:
        status = stage.agent.status()
        # The first failure may be that of a connection that was cut, the second is refused.
        return bool(status["boot_s"] > refused_s and status["uploader"]["consecutive_failures"] > 1)

    wait_until(lambda: stage.agent.outbox().pending == 0, what="no pending swipes")
    stage.pipe.fault("refuse")
    refused_s = boottime_s()
    stage.swipe(1)
    wait_until(has_met_it, what="a refused connection")
    stage.pipe.fault("refuse", seconds=0)


def every_fault_on(endpoint: str, place: Path) -> None:
    with ChaosRig(place) as stage:
        for fault in _FAULTS:
            stage.pipe.fault(on=endpoint, **fault)
            for way in _WAYS[endpoint]:
                stage.pipe.fault(**way)
            if endpoint == "hostname":
                lose_the_host(stage)
            stage.swipe(3)
            stage.wait_until_delivered()
            # The number of polls depends on the commits: swipe until the agent has met every fault.
            while stage.pipe.state()["faults"]:
                stage.swipe(1)
                stage.wait_until_delivered()

        stage.assert_delivered()
        assert stage.agent.outbox().set_aside == 0


for _endpoint in _WAYS:
    add(f"every fault at the endpoint {_endpoint}", __name__, partial(every_fault_on, _endpoint))


def wait_for_the_event_of_the_start(stage: ChaosRig) -> None:
    """From now on every append is of swipes."""
    wait_until(lambda: bool(stage.pipe.rows("RAW_DOOR_EVENTS")), what="the door event of the start")


@at_once
def a_retry_is_the_same_request_with_its_count_one_higher(place: Path) -> None:
    with ChaosRig(place) as stage:
        wait_for_the_event_of_the_start(stage)
        for keys in _STATUSES[:7]:
            stage.pipe.fault("status", on="append", times=3, **keys)
            stage.swipe(4)
            stage.wait_until_delivered()

        stage.assert_delivered()
        tries = {
            request_id: list(seen)
            for request_id, seen in groupby(appends(stage.pipe), key=lambda seen: seen["request_id"])
        }
        repeated = [seen for seen in tries.values() if len(seen) > 1]
        # Door events meet some of the faults, on a busy machine.
        all_appends = [seen for seen in stage.pipe.state()["seen"] if seen["endpoint"] == "append"]
        assert sum(seen["status"] != 200 for seen in all_appends) == 3 * 7
        assert len(repeated) == 7
        for seen in repeated:
            assert [int(one["retry_count"]) for one in seen] == list(range(len(seen)))
            assert len({one["bytes"] for one in seen}) == 1
            # The emulator takes each continuation token once: with any other this had been refused.
            assert seen[-1]["status"] == 200


@at_once
def retry_after_is_waited_for(place: Path) -> None:
    with ChaosRig(place) as stage:
        wait_for_the_event_of_the_start(stage)
        stage.pipe.fault("status", on="append", times=2, status=503, retry_after=2)

        stage.swipe(1)

        stage.assert_delivered()
        arrivals = [seen["arrived_ns"] for seen in appends(stage.pipe)]
        assert len(arrivals) == 3
        assert all(later - earlier >= 2e9 for earlier, later in pairwise(arrivals))


@at_once
def a_server_that_is_away_gets_everything_when_it_is_back(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.swipe(5)
        stage.pipe.fault("refuse", seconds=2)
        stage.swipe(20)
        stage.wait_until_delivered()
        stage.pipe.kill()
        stage.swipe(20)
        stage.pipe.start()
        stage.swipe(5)

        stage.assert_delivered()


@at_once
def a_server_that_dies_with_rows_in_its_buffer_gets_them_again(place: Path) -> None:
    with ChaosRig(place) as stage:
        for _ in range(3):
            stage.pipe.fault("stall_commits")
            stage.swipe(20)
            wait_until(
                lambda: stage.pipe.state()["channels"][0]["rows_uncommitted"] > 0, what="buffered rows"
            )
            stage.pipe.kill()
            stage.swipe(5)
            stage.pipe.start()

        stage.assert_delivered()


@at_once
def several_faults_at_once_while_swipes_go_on(place: Path) -> None:
    with ChaosRig(place) as stage:
        for endpoint in _WAYS:
            stage.pipe.fault("drop_after", on=endpoint, times=2)
            stage.pipe.fault("status", on=endpoint, status=503, times=2)
            stage.pipe.fault("delay", on=endpoint, seconds=0.2, times=5)
        stage.present(200, per_second=100)
        stage.pipe.fault("expire_tokens")
        stage.pipe.fault("invalidate_channel")
        stage.swipe(20)

        stage.assert_delivered()


@at_once
def an_agent_that_starts_offline_delivers_when_there_is_a_network(place: Path) -> None:
    with ChaosRig(place) as stage:
        stage.stop()
        stage.pipe.stop()
        stage.agent.start()
        stage.swipe(30)
        time.sleep(1)
        stage.pipe.start()

        stage.assert_delivered()


@pytest.mark.parametrize("scenario", names(__name__))
def test_every_swipe_is_in_the_table_once_and_in_order(running: Running, scenario: str) -> None:
    running[scenario].result()
