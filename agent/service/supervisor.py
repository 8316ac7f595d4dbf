"""The life of an agent: start its threads, watch them, tell systemd, stop cleanly."""

from __future__ import annotations

import logging
import signal
import threading
import time
from types import FrameType
from typing import Any

from agent import __version__
from agent.errors import KeyFileError, NotPermittedError, OutboxFullError, OutboxReplacedError
from agent.log.message_ids import MessageId, fields
from agent.service import notify
from agent.service.build import Agent, build
from agent.service.notify import Starting
from agent.service.wakeup import Wakeup
from agent.service.worker import Busy, Worker
from agent.settings import Settings
from agent.snowpipe.client import LONGEST_CALL_S

_log = logging.getLogger(__name__)

# Between SIGTERM and the end: 5 s are promised, one is left for the interpreter.
_STOP_S = 4.0
# News are written at most so often: the file is on tmpfs, but a Pi Zero has better things to do.
_STATUS_PAUSE_S = 0.2
# Longer than any regular piece of work: a commit on a slow SD card; a call with every renewal and timeout.
_READER_HUNG_S = 60.0
_UPLOADER_HUNG_S = LONGEST_CALL_S
_INSPECTOR_HUNG_S = 7200.0  # ten million rows on a slow card
# While the outbox is mended everybody waits for it: that takes as long as looking through it does.
_MENDING_S = _INSPECTOR_HUNG_S
_PURGE_EVERY_S = 600.0
_FINGERPRINT_SHOWN = len("SHA256:") + 8  # enough to tell keys apart
# So often an idle uploader looks at the clock: what it shows right is what earlier swipes are corrected by.
_LOOK_EVERY_S = 10.0


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises what build() raises, and OutboxError when the disk fails."""
    Supervisor(settings).run()


class Supervisor:
    """Owns the threads of one agent."""

    def __init__(self, settings: Settings) -> None:
        """Check everything and open the outbox; nothing runs yet."""
        self._wakeup = Wakeup()
        self._kept = threading.Event()
        self._stopping = False
        self._replay_asked = self._reload_asked = False
        # Before anything that takes time: a stop that comes early is a clean stop, too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_replay)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.set_wakeup_fd(self._wakeup.fd, warn_on_full_buffer=False)
        with Starting():
            self._agent: Agent = build(settings, kept=self._on_kept, changed=self._wakeup.set)
        self._runtime_dir = settings.agent.runtime_dir
        self._workers = [
            Worker("uploader", self._upload, ended=self._wakeup.set, hung_after_s=_UPLOADER_HUNG_S),
            *(
                Worker(
                    f"reader {session.reader.id}",
                    session.run,
                    ended=self._wakeup.set,
                    hung_after_s=_READER_HUNG_S,
                    reader=session.reader.id,
                )
                for session in self._agent.readers
            ),
        ]
        self._hung: list[Worker] = []

    def run(self) -> None:
        """Start, watch until a signal or a dead outbox, stop."""
        try:
            self._prepare()
            for worker in self._workers:
                worker.start()
            _log.info(
                "badge-agent %s is ready; readers: %d",
                __version__,
                len(self._agent.readers),
                extra=fields(MessageId.READY),
            )
            notify.tell("READY=1", f"STATUS={self._one_line()}")
            self._inspect()
            self._watch()
        finally:
            self._stop()
        for worker in self._workers:
            if worker.fatal is not None:
                raise worker.fatal

    def _prepare(self) -> None:
        try:
            self._runtime_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._agent.health.write(self._runtime_dir)
        except OSError as error:
            raise NotPermittedError(
                f"cannot write in the runtime directory {self._runtime_dir}: {error.strerror}",
                hint="run as the agent's user, or set [agent] runtime_dir to a directory it may write",
            ) from error

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _on_replay(self, _number: int, _frame: FrameType | None) -> None:
        self._replay_asked = True

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload_asked = True

    def _on_kept(self) -> None:
        self._kept.set()

    # --- the main thread --------------------------------------------------------------------------

    def _watch(self) -> None:
        watchdog_s = notify.watchdog_seconds()
        while not self._stopping and all(worker.fatal is None for worker in self._workers):
            if watchdog_s is not None and self._is_well():
                notify.tell("WATCHDOG=1")
            if self._replay_asked:
                self._replay_asked = False
                self._kept.set()
            if self._reload_asked:
                self._reload_asked = False
                self._reload()
            self._write_status()
            time.sleep(_STATUS_PAUSE_S)
            self._wakeup.wait(watchdog_s / 3 if watchdog_s is not None else None)

    def _reload(self) -> None:
        """Sign with the key that is there now; readers, outbox and the request under way go on."""
        notify.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        client = self._agent.client
        before = client.key
        try:
            key = client.reload_key()
        except (KeyFileError, NotPermittedError) as error:
            _log.error(
                "reload: %s; the agent goes on with the key it has; %s",
                error,
                error.hint,
                extra=fields(error=error),
            )
        else:
            what = "the same key" if key == before else "a new key"
            _log.info("reload: signing with %s, %s...", what, key.fingerprint[:_FINGERPRINT_SHOWN])
            self._agent.uploader.retry_now()
            self._kept.set()
        notify.tell("READY=1", f"STATUS={self._one_line()}")

    def _is_well(self) -> bool:
        """True while every loop goes round; says which one no longer does."""
        patience_s = _MENDING_S if self._agent.outbox.is_rebuilding else 0.0
        hung = [worker for worker in self._workers if not worker.is_well(patience_s=patience_s)]
        for worker in hung:
            if worker not in self._hung:
                _log.error(
                    "%s: hangs; the service manager is no longer told that all is well, and starts the agent "
                    "again",
                    worker.name,
                    extra=fields(MessageId.THREAD_HUNG, reader=worker.reader),
                )
        for worker in self._hung:
            if worker not in hung:
                _log.info("%s: goes on", worker.name, extra=fields(reader=worker.reader))
        self._hung = hung
        return not hung

    def _write_status(self) -> None:
        try:
            self._agent.health.write(self._runtime_dir)
        except OSError as error:
            # Only `status` is the poorer for it; the swipes go on.
            _log.debug("cannot write the status file: %s", error)
        notify.tell(f"STATUS={self._one_line()}")

    def _one_line(self) -> str:
        snapshot: dict[str, Any] = self._agent.health.snapshot()
        uploader, readers = snapshot["uploader"], snapshot["readers"]
        pending = self._agent.outbox.pending
        is_open = sum(reader["state"] == "open" for reader in readers)
        reason = f": {uploader['reason']}" if uploader["reason"] else ""
        return f"{pending} pending, {is_open} of {len(readers)} readers open, {uploader['state']}{reason}"

    def _stop(self) -> None:
        signal.set_wakeup_fd(-1)
        notify.tell("STOPPING=1")
        deadline = time.monotonic() + _STOP_S
        for worker in self._workers:
            worker.stopping()
        for session in self._agent.readers:
            session.stop()
        self._stopping = True
        self._kept.set()
        # Readers first: what they have read is kept before the file is closed.
        ended = [worker.join(max(0.0, deadline - time.monotonic())) for worker in reversed(self._workers)]
        if all(ended):
            self._agent.outbox.close()
            _log.info(
                "stopped; %d swipes are still to be sent or confirmed",
                self._agent.outbox.pending,
                extra=fields(MessageId.STOPPED),
            )
        else:
            # The file needs no closing: every swipe in it is durable since its keep() returned.
            _log.info(
                "stopped while a request or a check was under way; the next start asks how far it got",
                extra=fields(MessageId.STOPPED),
            )

    def _inspect(self) -> None:
        """Look through the whole file, only now: it may be large, and readers must not wait for it."""
        outbox = self._agent.outbox
        inspector = Worker(
            "inspector",
            lambda _busy: outbox.check_integrity(),
            ended=self._wakeup.set,
            hung_after_s=_INSPECTOR_HUNG_S,
        )
        inspector.start()
        self._workers.append(inspector)

    # --- the uploader's thread --------------------------------------------------------------------

    def _upload(self, busy: Busy) -> None:
        uploader = self._agent.uploader
        purge_at = time.monotonic()
        while not self._stopping:
            busy(True)
            before = self._news()
            delay = uploader.step()
            is_news = self._news() != before
            if is_news:
                self._wakeup.set()
            if time.monotonic() >= purge_at or (is_news and self._agent.outbox.is_disk_full):
                purge_at = time.monotonic() + (0.0 if self._purge() else _PURGE_EVERY_S)
            wait_s = min(max(0.0, purge_at - time.monotonic()), _LOOK_EVERY_S)
            busy(False)
            if delay != 0.0:
                self._kept.wait(wait_s if delay is None else min(delay, wait_s))
                self._kept.clear()

    def _news(self) -> tuple[object, ...]:
        """What `status` shows of the delivering, without what changes by itself."""
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

    def _purge(self) -> int:
        """Free what is older than the retention, or too much; one bounded step.

        Only a trusted clock can tell what is old. On a full disk everything committed is too much.
        """
        settings, outbox = self._agent.settings.outbox, self._agent.outbox
        now = outbox.boots.screened(self._agent.clock.now())
        kept_since_us = now.wall_us - int(settings.retention_days * 86_400 * 1e6)
        outbox.refill_reserve()
        try:
            return outbox.purge(
                kept_since_us=kept_since_us if now.trusted else None,
                max_bytes=0 if outbox.is_disk_full else settings.max_bytes,
            )
        except OutboxFullError:
            return 0  # not even room to note what goes: keep() frees the reserve for that
        except OutboxReplacedError:
            return 0  # damaged, and sound again by now
