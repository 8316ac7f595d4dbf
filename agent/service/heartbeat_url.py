"""The heartbeat of a door to a monitoring service that raises an alarm when it stays away.

It runs in a thread that nothing waits for and that the watchdog does not supervise: whatever that service
does, reading and delivery are not affected.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from agent.errors import AgentError
from agent.service.snowflake import make_http
from agent.service.status_file import is_healthy
from agent.service.worker import Busy, Worker
from agent.settings import Settings
from agent.snowpipe.http import Http

_log = logging.getLogger(__name__)

_MINUTE_S = 60.0
# A swipe that waits for longer is no heartbeat: the door does not deliver.
_LONGEST_WAIT_S = 3600.0
_WHAT = "heartbeat"


class HeartbeatUrl:
    """Sends a GET each `every_s` seconds, the first one after as long, while `is_well()` is true."""

    def __init__(self, http: Http, url: str, *, every_s: float, is_well: Callable[[], bool]) -> None:
        self._http = http
        self._url = url
        self._every_s = every_s
        self._is_well = is_well
        self._is_failing = False
        self._stopping = threading.Event()
        # Never reports itself as busy, so it cannot be taken for hung.
        self._worker = Worker(_WHAT, self._run, hung_after_s=0.0)

    def start(self) -> None:
        """Start the thread."""
        self._worker.start()

    def stop(self) -> None:
        """End the thread at its next wait; a request in progress ends with the process."""
        self._worker.stopping()
        self._stopping.set()

    def beat(self) -> None:
        """Send one request if all is well. Logs the first failure and the first success after it."""
        if not self._is_well():
            return
        try:
            status = self._http.get(self._url, _WHAT)
        except AgentError as error:
            self._note(str(error))
        else:
            is_success = 200 <= status < 300  # noqa: PLR2004 - the class of success, RFC 9110 15.3
            self._note("" if is_success else f"{_WHAT}: the address answered with HTTP {status}")

    def _run(self, busy: Busy) -> None:
        busy(False)
        while not self._stopping.wait(self._every_s):
            self.beat()

    def _note(self, failure: str) -> None:
        if failure and not self._is_failing:
            _log.warning("%s; swipes are read and delivered all the same", failure)
        elif self._is_failing and not failure:
            _log.info("heartbeat: accepted again")
        self._is_failing = bool(failure)


def heartbeat_of(settings: Settings, status: Callable[[], dict[str, Any]]) -> HeartbeatUrl | None:
    """The configured heartbeat, of a door with this status; None without one."""
    heartbeat = settings.heartbeat
    if heartbeat.url is None:
        return None
    return HeartbeatUrl(
        make_http(settings),
        heartbeat.url,
        every_s=heartbeat.minutes * _MINUTE_S,
        is_well=lambda: is_well(status()),
    )


def is_well(status: dict[str, Any]) -> bool:
    """Whether a door reads and delivers: healthy, and no swipe has waited for an hour."""
    waited_s = status["outbox"]["oldest_pending_seconds"]
    return is_healthy(status) and (waited_s is None or waited_s < _LONGEST_WAIT_S)
