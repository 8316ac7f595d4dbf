"""The body of the uploader's thread: run upload steps, wait for new swipes, report news, purge."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from agent.errors import OutboxReplacedError, OutboxUnavailableError
from agent.service.build import Agent
from agent.service.worker import Busy

_PURGE_EVERY_S = 600.0
# Between two steps of one purge, so that swipes and rows to send find the outbox free.
_PURGE_PAUSE_S = 0.1
# How often an idle uploader reads the clock: readings of a synchronised clock correct earlier timestamps.
_CLOCK_READ_EVERY_S = 10.0
# How often the outbox is counted for the metrics: node_exporter is scraped once in 15 s or more.
_COUNT_EVERY_S = 10.0


class UploadLoop:
    """Runs the uploader until `stop()`; `on_news` is called when what `status` shows has changed."""

    def __init__(self, agent: Agent, *, on_news: Callable[[], None]) -> None:
        """Build the loop; run() starts it."""
        self._agent = agent
        self._on_news = on_news
        self._wanted = threading.Event()
        self._stopping = False
        self._purge_at = self._count_at = time.monotonic()

    def wake(self) -> None:
        """Run a step without waiting for the end of the current pause. Callable from any thread."""
        self._wanted.set()

    def stop(self) -> None:
        """Make run() return after the step in progress. Callable from any thread."""
        self._stopping = True
        self._wanted.set()

    def run(self, busy: Busy) -> None:
        """The thread's body: busy(True) before each step, busy(False) before each wait."""
        while not self._stopping:
            busy(True)
            wait_s = self.step()
            busy(False)
            if wait_s != 0.0:
                self._wanted.wait(wait_s)
                self._wanted.clear()

    def step(self) -> float:
        """Run one step of the uploader, and of the purge if it is due; returns the seconds until the next.

        A wake() ends this wait.
        """
        before = self._news()
        delay = self._agent.uploader.step()
        self._agent.delivery_state.observe(self._agent.outbox)
        is_news = self._news() != before
        if is_news:
            self._on_news()
        if time.monotonic() >= self._purge_at or (is_news and self._agent.outbox.is_disk_full):
            self._purge_at = time.monotonic() + (_PURGE_PAUSE_S if self.purge() else _PURGE_EVERY_S)
        if time.monotonic() >= self._count_at:
            self._agent.status_report.look_at_outbox()
            self._count_at = time.monotonic() + _COUNT_EVERY_S
        wait_s = min(max(0.0, self._purge_at - time.monotonic()), _CLOCK_READ_EVERY_S)
        return wait_s if delay is None else min(delay, wait_s)

    def purge(self) -> int:
        """Delete one bounded batch of committed rows past retention or over max_bytes; returns how many.

        Age counts only while the clock is trusted. Rows whose errors may still be counted stay, but on a full
        disk every committed row may go.
        """
        settings, outbox = self._agent.settings.outbox, self._agent.outbox
        now = outbox.boots.screened(self._agent.clock.now())
        kept_since_us = now.wall_us - int(settings.retention_days * 86_400 * 1e6)
        outbox.refill_reserve()
        try:
            return outbox.purge(
                kept_since_us=kept_since_us if now.trusted else None,
                max_bytes=0 if outbox.is_disk_full else settings.max_bytes,
                final_n=None if outbox.is_disk_full else self._agent.uploader.final_n,
            )
        except OutboxUnavailableError:
            return 0  # no room even for the delete's journal, or a lock: the next purge tries again
        except OutboxReplacedError:
            return 0  # the file was damaged and has been rebuilt; the next purge sees the new one

    def _news(self) -> tuple[object, ...]:
        """The delivery state that `status` shows, without the values that change with time alone."""
        status, agent = self._agent.uploader.status(), self._agent
        expires_at = agent.client.jwt.expires_at
        return (
            status.state,
            status.reason,
            status.consecutive_failures,
            agent.outbox.pending,
            expires_at,
            agent.outbox.boots.state(agent.clock.now()),
        )
