"""Drain the outbox without readers: what `replay` does where no agent runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.clock.system_clock import SystemClock
from agent.errors import SnowpipeError
from agent.service.build import open_outbox, open_uploader
from agent.service.snowflake import make_client
from agent.settings import Settings
from agent.snowpipe.http import Http

_LONGEST_WAIT_S = 0.2
_TRIES = 5  # in a row, then a person is told rather than kept waiting


def drain(settings: Settings, *, while_true: Callable[[], bool]) -> None:
    """Send live rows, then replays, for as long as `while_true` says so.

    Raises OutboxInUseError when an agent runs: then it does the work. Raises SnowpipeError when
    Snowflake cannot be reached: what is left goes on with the next agent.
    """
    client = make_client(settings, Http(ca_file=settings.snowflake.ca_file))
    outbox = open_outbox(settings)
    try:
        uploader = open_uploader(settings, outbox, client, SystemClock(settings.clock.trust))
        while while_true():
            delay = uploader.step()
            status = uploader.status()
            if status.reason is not None and status.consecutive_failures > _TRIES:
                raise SnowpipeError(
                    status.reason, hint="the replay is in the outbox and goes on when the agent runs again"
                )
            time.sleep(_LONGEST_WAIT_S if delay is None else min(delay, _LONGEST_WAIT_S))
    finally:
        outbox.close()
