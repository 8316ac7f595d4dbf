"""Generated answers at every endpoint against the real agent: nothing lost, doubled or set aside."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.support.chaos_rig import ChaosRig
from tests.support.rounds import ROUNDS, chances
from tests.support.swipes import wait_until

_ENDPOINTS = ("hostname", "token", "open", "append", "status")
_SHARE = 0.5
_SAMPLE_S = 25.0
# `make chaos`: so many generated answers, unless CHAOS_ANSWERS says otherwise.
_ANSWERS = int(os.environ.get("CHAOS_ANSWERS", "100000"))
_MOST_MEMORY_KB = 160_000


def _peak_kb(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


@pytest.mark.timeout(0 if ROUNDS > 1 else 180)
def test_no_generated_answer_loses_doubles_or_sets_aside_a_swipe(tmp_path: Path) -> None:
    seeds = {endpoint: chances(endpoint).getrandbits(32) for endpoint in _ENDPOINTS}
    answers, end = 0, time.monotonic() + _SAMPLE_S
    tables = "[uploader]\nbackoff_max_seconds = 0.1\n"

    with ChaosRig(tmp_path, tables=tables) as stage:
        for endpoint, seed in seeds.items():
            stage.pipe.fault("anything", on=endpoint, seed=seed, share=_SHARE)
        began, number = time.monotonic(), 0
        while answers < _ANSWERS if ROUNDS > 1 else time.monotonic() < end:
            stage.swipe(1)
            time.sleep(0.02)
            number += 1
            if number % 50 == 0:
                stage.pipe.fault("expire_tokens")
                answers = sum(seen["count"] for seen in stage.pipe.state()["requests"].values())
        took_s = time.monotonic() - began
        peak_kb = _peak_kb(stage.agent.pid)
        stage.pipe.fault("clear")
        stage.assert_delivered()

        wait_until(lambda: stage.agent.outbox().pending == 0, what="no pending swipes")
        aside = stage.agent.outbox().set_aside
        print(  # noqa: T201 - the figures of the run
            f"{answers} answers, {len(stage.tags)} swipes: 0 lost, 0 doubled, {aside} set aside; "
            f"{answers / took_s:.1f} requests a second; memory peak {peak_kb / 1000:.0f} MB; seeds {seeds}"
        )
        assert aside == 0
        assert peak_kb < _MOST_MEMORY_KB
