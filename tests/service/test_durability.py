from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path

import pytest

from agent.errors import OutboxFullError
from agent.outbox.swipe_queue import SwipeQueue
from agent.readers.protocols.osdp.codes import Command
from agent.readers.protocols.osdp.lights import Light, Lights
from agent.readers.protocols.osdp.outputs import Colour, steady_led
from agent.readers.reader_light import ReaderLight
from agent.service.durability import DeliveryState
from tests.support.outbox_rig import commit, keep, opened
from tests.support.swipes import swipe


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


def test_the_light_is_amber_while_swipes_wait_for_too_long_and_red_before_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    queue = SwipeQueue(["RDR-101"])
    state, lights, shown = DeliveryState(queue), Lights(), []
    light = ReaderLight("RDR-101", lights, state, amber_after_s=60)
    with closing(opened(tmp_path)) as outbox:
        keep(outbox, 1)
        state.observe(outbox)
        for seconds in (59.0, 1.0):
            now_s += seconds
            light.update()
            shown.append(lights.steady)
        queue.problem = OutboxFullError("full")
        light.update()
        shown.append(lights.steady)
        queue.problem = None
        commit(outbox, 1)
        state.observe(outbox)
        light.update()
        shown.append(lights.steady)

    assert shown == [Light.NORMAL, Light.DELAYED, Light.BLOCKED, Light.NORMAL]


def test_a_swipe_that_waited_for_the_outbox_is_not_signalled() -> None:
    queue = SwipeQueue(["RDR-101"])
    lights = Lights()
    light = ReaderLight("RDR-101", lights, DeliveryState(queue), amber_after_s=60)
    queue.put(swipe())
    queue.problem = OutboxFullError("full")
    light.update()
    queue.problem = None
    queue.remove_first(1, stored=True)

    light.update()

    assert lights.next_command(()) == (Command.LED, steady_led(Colour.OFF))
