"""One supervised thread: restarted when it dies, watched for hangs, stopped with the others."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable
from random import random

from agent.backoff import Backoff
from agent.errors import OutboxError
from agent.log.message_ids import MessageId, fields

_log = logging.getLogger(__name__)

_RESTART_FIRST_S = 1.0
_RESTART_LAST_S = 60.0
# A thread that ran this long has recovered from its last failure: the back-off starts again.
_RECOVERED_AFTER_S = 300.0

Busy = Callable[[bool], None]


class Worker:
    """Runs `body(busy)` in a thread until it returns; a body that raises is run again after a back-off.

    An OutboxError is no bug of the body, and is logged as such. It does not end the agent either: what was
    read and is not stored yet is in memory only.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[Busy], None],
        *,
        hung_after_s: float,
        reader: str | None = None,
    ) -> None:
        """`hung_after_s`: longer than any legitimate work between two waits of this thread.

        `reader`: id of the reader that the thread serves, for the log.
        """
        self.name = name
        self.reader = reader
        self._body = body
        self._hung_after_s = hung_after_s
        self._busy_since: float | None = None
        self._stopping = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stopping(self) -> None:
        """Do not run the body again once it has ended."""
        self._stopping.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it still runs after the timeout."""
        if self._thread.ident is not None:  # None: never started
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def is_healthy(self) -> bool:
        """False if the thread died, or has been busy for longer than `hung_after_s`."""
        since = self._busy_since
        hung = since is not None and time.monotonic() - since > self._hung_after_s
        return self._done or (self._thread.is_alive() and not hung)

    def _busy(self, busy: bool) -> None:  # noqa: FBT001 - a state, not an option
        self._busy_since = time.monotonic() if busy else None

    def _run(self) -> None:
        backoff = Backoff(first=_RESTART_FIRST_S, cap=_RESTART_LAST_S, random=random)
        while not self._stopping.is_set():
            started = time.monotonic()
            self._busy(True)
            try:
                self._body(self._busy)
            except Exception as error:  # noqa: BLE001 - an error in one reader must not stop the others
                self._log_failure(error)
                if time.monotonic() - started > _RECOVERED_AFTER_S:
                    backoff.reset()
                self._busy(False)
                self._stopping.wait(backoff.next())
            else:
                self._done = True
                return

    def _log_failure(self, error: Exception) -> None:
        if isinstance(error, OutboxError):
            _log.warning(
                "%s: %s; it is run again; %s",
                self.name,
                error,
                error.hint,
                extra=fields(MessageId.DISK_FULL, reader=self.reader, error=error),
            )
            return
        # Type and place only: the message may quote a card number or a token.
        _log.error(
            "%s: thread died of %s; restarting it. This is a bug, please report it\n%s",
            self.name,
            type(error).__name__,
            "".join(traceback.format_tb(error.__traceback__)).rstrip(),
            extra=fields(MessageId.THREAD_DIED, reader=self.reader),
        )
