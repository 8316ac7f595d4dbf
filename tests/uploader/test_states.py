from __future__ import annotations

import pytest

from agent.uploader.sender_state import SenderState
from tests.support.pipe_model import Lose, Refuse
from tests.support.uploader_rig import UploaderRig

CLOSED, OPEN, SENDING = SenderState.CLOSED, SenderState.OPEN, SenderState.SENDING
AWAITING_COMMIT, BACKING_OFF = SenderState.AWAITING_COMMIT, SenderState.BACKING_OFF


def states(door: UploaderRig, seconds: float = 3600.0) -> list[SenderState]:
    """The states of the live sender until it is idle, without repetitions."""
    sender = door.uploader._live
    seen, end = [sender.state], door.clock.seconds + seconds
    while door.clock.seconds < end and (delay := door.uploader.step()) is not None:
        if sender.state is not seen[-1]:
            seen.append(sender.state)
        door.clock.advance(max(delay, 1e-6))
    return seen if sender.state is seen[-1] else [*seen, sender.state]


def door_batch(door: UploaderRig, count: int) -> bytes:
    """The body of an append with so many rows."""
    door.keep(count)
    door.drain()
    return door.pipe.of("append")[-1].body


def test_a_batch_goes_from_closed_to_open_by_way_of_its_commit(door: UploaderRig) -> None:
    door.keep(3)

    assert states(door) == [CLOSED, OPEN, AWAITING_COMMIT, OPEN]


@pytest.mark.parametrize("status", [429, 503])
def test_a_transient_refusal_resumes_the_same_request_after_its_delay(door: UploaderRig, status: int) -> None:
    door.run()
    door.pipe.faults.append(Refuse(status))
    door.keep(3)

    assert states(door) == [OPEN, BACKING_OFF, SENDING, AWAITING_COMMIT, OPEN]


def test_an_unknown_outcome_closes_the_channel_immediately(door: UploaderRig) -> None:
    door.run()
    door.pipe.faults.append(Lose(processed=False))
    door.keep(3)

    assert states(door) == [OPEN, CLOSED, OPEN, SENDING, AWAITING_COMMIT, OPEN]


def test_a_refused_batch_reopens_the_channel_and_goes_on_with_half_of_it(door: UploaderRig) -> None:
    door.run()
    door.pipe.takes_bytes = len(door_batch(door, 2)) - 50
    door.keep(2)

    assert states(door) == [
        *(OPEN, CLOSED, OPEN),  # both rows
        *(SENDING, AWAITING_COMMIT),  # each of them, a second apart until a commit ends the failures
        *(SENDING, AWAITING_COMMIT, OPEN),
    ]


def test_a_request_that_waits_for_the_rate_limit_is_prepared_once(door: UploaderRig) -> None:
    door.run()
    sender = door.uploader._live
    for _ in range(12):
        sender._rate.spend(door.clock.monotonic_s())
    door.keep(1)

    assert states(door) == [OPEN, SENDING, AWAITING_COMMIT, OPEN]
