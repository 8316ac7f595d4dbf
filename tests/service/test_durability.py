from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import OutboxFullError
from agent.outbox.swipe_queue import SwipeQueue
from agent.service.durability import DeliveryState
from tests.support.outbox_rig import commit, keep, opened


def test_swipes_wait_from_the_first_look_until_they_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    state = DeliveryState(SwipeQueue(["RDR-101"]))
    with closing(opened(tmp_path)) as outbox:
        state.observe(outbox)
        assert state.waits_s() == 0.0
        keep(outbox, 2)
        state.observe(outbox)
        now_s = 400.0
        keep(outbox, 1)
        state.observe(outbox)
        assert state.waits_s() == 300.0

        commit(outbox, 2)
        state.observe(outbox)
        assert state.waits_s() == 0.0  # the third one is counted from now
        now_s = 450.0
        assert state.waits_s() == 50.0
        commit(outbox, 3)
        state.observe(outbox)

    assert state.waits_s() == 0.0


def test_readers_are_blocked_while_the_outbox_takes_nothing() -> None:
    queue = SwipeQueue(["RDR-101"])
    state = DeliveryState(queue)

    before = state.is_blocked("RDR-101")
    queue.problem = OutboxFullError("full")

    assert (before, state.is_blocked("RDR-101")) == (False, True)
