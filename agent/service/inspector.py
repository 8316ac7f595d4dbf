"""The body of the inspector's thread: check the outbox file, move the rows of a damaged one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from agent.errors import OutboxReplacedError, OutboxUnavailableError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId
from agent.outbox import Outbox
from agent.service.worker import Busy

_log = logging.getLogger(__name__)

# Between two steps at least, so that swipes find the outbox free; after a longer step as long as that.
_PAUSE_S, _LONGEST_PAUSE_S = 0.002, 0.1
_RETRY_S = 10.0  # after a failure, for example while the disk has no room
_STOP_CHECK_S = 1.0


class Inspector:
    """Works when the outbox needs it, until `stop()`; calls `recovered` when rows can be sent again."""

    def __init__(self, outbox: Outbox, *, recovered: Callable[[], None]) -> None:
        """Do nothing yet: run() is the body of a thread."""
        self._outbox = outbox
        self._recovered = recovered
        self._stopping = False
        self._faults = FailureLog(_log, "recovery", time.monotonic, recovery=MessageId.DISK_HAS_ROOM)

    def stop(self) -> None:
        """Make run() return after the step in progress. Callable from any thread."""
        self._stopping = True
        self._outbox.needs_inspection.set()

    def run(self, busy: Busy) -> None:
        """The thread's body: busy(True) before each step, busy(False) before each wait."""
        while not self._stopping:
            busy(True)
            wait_s = self.step()
            busy(False)
            if wait_s is not None:
                self._sleep(wait_s)
            elif not self._stopping:  # the step may have cleared the event that stop() had set
                self._outbox.needs_inspection.wait()

    def step(self) -> float | None:
        """One step; returns the seconds to wait after it, None until the outbox needs inspection again."""
        try:
            return self._step()
        except OutboxReplacedError:
            return _PAUSE_S
        except OutboxUnavailableError as error:
            self._faults.failed(error, MessageId.DISK_FULL)
            return _RETRY_S

    def _step(self) -> float | None:
        needs_inspection = self._outbox.needs_inspection
        needs_inspection.clear()
        try:
            begun, was_withheld = time.monotonic(), self._outbox.state.is_withheld
            if not self._outbox.recover_step():
                self._outbox.check_integrity()
                return 0.0 if self._outbox.state.recoveries else None
            self._faults.recovered()
            if was_withheld and not self._outbox.state.is_withheld:
                self._recovered()
            return min(max(_PAUSE_S, time.monotonic() - begun), _LONGEST_PAUSE_S)
        except BaseException:
            needs_inspection.set()
            raise

    def _sleep(self, wait_s: float) -> None:
        end = time.monotonic() + wait_s
        while not self._stopping and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _STOP_CHECK_S))
