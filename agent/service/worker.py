"""One supervised thread: restarted when it dies, watched for hanging, stopped with the rest."""

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
# A thread that worked this long before it died had recovered from what killed it before.
_HEALTHY_S = 300.0

Busy = Callable[[bool], None]


class Worker:
    """Runs `body(busy)` in a thread until it returns; a body that raises is run again after a delay.

    An OutboxError is not survived: it is kept in `fatal` and `ended` is told.
    """

    def __init__(
        self,
        name: str,
        body: Callable[[Busy], None],
        *,
        ended: Callable[[], None],
        hung_after_s: float,
        reader: str | None = None,
    ) -> None:
        """`hung_after_s`: longer than any honest piece of work between two waits of this thread;
        `reader`: the id of the reader that it is for.
        """
        self.name = name
        self.reader = reader
        self.fatal: OutboxError | None = None
        self._body = body
        self._ended = ended
        self._hung_after_s = hung_after_s
        self._busy_since: float | None = None
        self._stopping = threading.Event()
        self._done = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stopping(self) -> None:
        """From now on the body is not run again."""
        self._stopping.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False if the thread still runs after the timeout."""
        if self._thread.ident is not None:  # else it was never started
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def is_well(self, *, patience_s: float = 0.0) -> bool:
        """False when the thread is gone, or has been at one piece of work for too long.

        `patience_s` is for what all threads have to wait for: nothing shorter is too long.
        """
        since = self._busy_since
        hangs = since is not None and time.monotonic() - since > max(self._hung_after_s, patience_s)
        return self._done or (self._thread.is_alive() and not hangs)

    def _busy(self, busy: bool) -> None:  # noqa: FBT001 - told, not configured
        self._busy_since = time.monotonic() if busy else None

    def _run(self) -> None:
        backoff = Backoff(first=_RESTART_FIRST_S, cap=_RESTART_LAST_S, random=random)
        while not self._stopping.is_set():
            started = time.monotonic()
            self._busy(True)
            try:
                self._body(self._busy)
            except OutboxError as error:
                self.fatal = error
                self._ended()
                return
            except Exception as error:  # noqa: BLE001 - one dead reader must not end the others
                # Where and what kind, without the message: that may quote a card number or a token.
                _log.error(
                    "%s: died of %s and is restarted; this is a bug worth reporting\n%s",
                    self.name,
                    type(error).__name__,
                    "".join(traceback.format_tb(error.__traceback__)).rstrip(),
                    extra=fields(MessageId.THREAD_DIED, reader=self.reader),
                )
                if time.monotonic() - started > _HEALTHY_S:
                    backoff.reset()
                self._busy(False)
                self._stopping.wait(backoff.next())
            else:
                self._done = True
                return
