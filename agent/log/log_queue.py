"""A bounded queue between the threads of the agent and its log: no log call waits for the log's reader."""

from __future__ import annotations

import copy
import logging
import logging.handlers
import queue
import threading
import time
from collections.abc import Callable

from agent.log.line_limit import LineLimit

_CAPACITY = 1000  # records; some minutes of lines with every reader at fault, about 1 MB
# After an overflow records are dropped until this many are left, so that a slow log has few, long gaps.
_RESUME_AT = _CAPACITY // 2
_FLUSH_S = 1.0
_HELD_CHECK_S = 30.0  # how late a record that was held back may be


class LogQueue(logging.handlers.QueueHandler):
    """Formats records in the calling thread and writes them in a thread of its own, in order.

    LineLimit holds back repetitions. A record that finds the queue full is dropped and counted; one line
    reports how many were. Python's exit calls flush(). QueueListener is not used: its stop() waits without
    a limit, and its handlers have locks that Python's exit waits for as long as one of them hangs.
    """

    queue: queue.Queue[logging.LogRecord]

    def __init__(self, write: Callable[[logging.LogRecord], None]) -> None:
        """`write` may block; it gets records without arguments and must not raise."""
        super().__init__(queue.Queue(_CAPACITY))
        self._write = write
        self._dropped = 0
        self._limit = LineLimit(time.monotonic)
        self._counting = threading.Lock()  # of `_dropped`; never held during I/O
        # A daemon: Python's exit must not wait for a write that hangs.
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue what the limit admits."""
        for ready in self._limit.admit(record, self.prepare):
            self.enqueue(ready)

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """A copy of the record with its text; arguments and exceptions stay in the calling thread."""
        ready = copy.copy(record)
        try:
            ready.msg = record.getMessage()
            if record.exc_info and not record.exc_text:
                ready.exc_text = logging.Formatter().formatException(record.exc_info)
        except Exception as error:  # noqa: BLE001 - handleError() would write to stderr, which may block
            ready.msg = f"{record.pathname}:{record.lineno}: cannot format the line: {type(error).__name__}"
        ready.args = ready.exc_info = None
        return ready

    def enqueue(self, record: logging.LogRecord) -> None:
        """Queue a record, or drop it if the queue is full."""
        with self._counting:
            try:
                if self._dropped:
                    if self.queue.qsize() > _RESUME_AT:
                        raise queue.Full
                    self._report_dropped()
                self.queue.put_nowait(record)
            except queue.Full:
                self._dropped += 1

    def flush(self) -> None:
        """Wait until every queued record is written, also those held back, for at most one second."""
        for held in self._limit.release():
            self.enqueue(held)
        deadline = time.monotonic() + _FLUSH_S
        with self.queue.all_tasks_done:
            while self.queue.unfinished_tasks and (left := deadline - time.monotonic()) > 0:
                self.queue.all_tasks_done.wait(left)

    def _run(self) -> None:
        while True:
            try:
                record = self.queue.get(timeout=_HELD_CHECK_S)
            except queue.Empty:
                for held in self._limit.due():
                    self.enqueue(held)
                continue
            self._write(record)
            with self._counting:
                if self._dropped and self.queue.empty():
                    self._report_dropped()
            self.queue.task_done()

    def _report_dropped(self) -> None:
        what = "1 line was" if self._dropped == 1 else f"{self._dropped} lines were"
        text = f"log: {what} dropped here because the log was not read"
        self.queue.put_nowait(
            logging.LogRecord(__name__, logging.WARNING, __file__, 0, text, None, None, "_report_dropped")
        )
        self._dropped = 0
