"""Drains the outbox without readers: used by `replay` while no agent runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from agent.clock.system_clock import SystemClock
from agent.errors import OutboxInUseError, SnowpipeError
from agent.outbox import is_held
from agent.service.build import open_outbox, open_uploader
from agent.service.snowflake import make_client, make_http
from agent.settings import Settings

_MAX_WAIT_S = 0.2  # between two calls of `while_true`
_MAX_FAILURES = 5  # in a row; then the command ends with the error


def drain(settings: Settings, *, while_true: Callable[[], bool]) -> None:
    """Send live rows, then replays, while `while_true()` returns True.

    Raises OutboxInUseError as soon as an agent runs: it sends them instead. Raises OutboxBusyError while
    another process drains the outbox, and SnowpipeError after repeated failures: the rest stays in the outbox
    for the next agent.
    """
    client = make_client(settings, make_http(settings))
    state_dir = settings.agent.state_dir
    _refuse_agent(state_dir)
    outbox = open_outbox(settings)
    try:
        uploader = open_uploader(settings, outbox, client, SystemClock(settings.clock.trust))
        while while_true():
            _refuse_agent(state_dir)
            if outbox.recover_step():
                continue
            delay = uploader.step()
            status = uploader.status()
            if status.reason is not None and status.consecutive_failures > _MAX_FAILURES:
                raise SnowpipeError(
                    status.reason, hint="the replay is stored in the outbox and continues when the agent runs"
                )
            time.sleep(_MAX_WAIT_S if delay is None else min(delay, _MAX_WAIT_S))
    finally:
        outbox.close()


def _refuse_agent(state_dir: Path) -> None:
    if is_held(state_dir):
        raise OutboxInUseError(f"an agent uses the state directory {state_dir}")
