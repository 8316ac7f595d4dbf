from __future__ import annotations

import pytest

from agent.errors import (
    AgentError,
    AuthError,
    ChannelLostError,
    OutboxFullError,
    OutboxReplacedError,
    OutcomeUnknownError,
    RowsRefusedError,
    SnowpipeError,
    TooLargeError,
    TransientError,
    UnreachableError,
)
from agent.uploader.failures import RetryDelay, is_position_lost, needs_operator

# The failure, and what it needs: an operator, a new open of the channel, or only time.
TABLE: list[tuple[AgentError, str]] = [
    (AuthError("401"), "operator"),
    (RowsRefusedError("400"), "operator"),
    (TooLargeError("413"), "operator"),
    (TransientError("503"), "time"),
    (UnreachableError("no route"), "time"),
    (OutcomeUnknownError("no answer"), "reopen"),
    (ChannelLostError("409"), "reopen"),
    (SnowpipeError("stalled"), "reopen"),
    (OutboxFullError("disk"), "time"),
    (OutboxReplacedError("damaged"), "time"),
]


@pytest.mark.parametrize(("failure", "needs"), TABLE, ids=repr)
def test_each_failure_decides_who_acts_and_whether_the_channel_is_reopened(
    failure: AgentError, needs: str
) -> None:
    assert needs_operator(failure) is (needs == "operator")
    assert is_position_lost(failure) is (needs == "reopen")


@pytest.mark.parametrize(
    ("failure", "delays"),
    [
        (TransientError("503"), [0.5, 1, 2, 4, 8, 16, 30, 30]),
        (OutboxFullError("disk"), [0.5, 1, 2, 4]),
        (OutboxReplacedError("damaged"), [0.5, 1, 2, 4]),
        (OutcomeUnknownError("no answer"), [0, 1, 2, 4]),  # the first reopening is immediate
        (AuthError("401"), [45, 45, 45]),  # between half the cap and the cap
        (TransientError("429", retry_after=7), [7, 7, 7]),
        (TransientError("429", retry_after=86_400), [3600.5, 3601]),  # an hour more than the delay
        (TransientError("503", retry_after=0), [0.5, 1, 2, 4, 8, 16, 30, 30]),
        (ChannelLostError("409", retry_after=7), [0, 7, 7]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_delays_grow_to_the_cap_except_where_the_failure_sets_them(
    failure: AgentError, delays: list[float]
) -> None:
    delay = RetryDelay(max_s=60, random=lambda: 0.5)

    assert [delay.after(failure) for _ in delays] == delays
    assert delay.failures == len(delays)


def test_a_success_starts_a_new_series() -> None:
    delay = RetryDelay(max_s=60, random=lambda: 0.0)
    for _ in range(5):
        delay.after(TransientError("503"))

    delay.reset()

    assert delay.failures == 0
    assert delay.after(OutcomeUnknownError("no answer")) == 0.0
    assert delay.after(TransientError("503")) == 2.0
