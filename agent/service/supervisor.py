"""The main thread: start the workers, watch them, notify systemd, stop cleanly."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from types import FrameType
from typing import Any

from agent import __version__
from agent.errors import KeyFileError, NotPermittedError, OutboxError
from agent.log.message_ids import MessageId, fields
from agent.service import notify
from agent.service.build import Agent, build
from agent.service.inspector import Inspector
from agent.service.state_disk import HINT, state_problem
from agent.service.upload_loop import UploadLoop
from agent.service.wakeup import Wakeup
from agent.service.worker import Worker
from agent.settings import Settings
from agent.snowpipe.client import LONGEST_CALL_S

_log = logging.getLogger(__name__)

# From SIGTERM to the end: 5 s are promised, one of them is left for the interpreter's exit.
_STOP_S = 4.0
# Shortest time between two status files: the file is on tmpfs, but writing it costs a Pi Zero CPU time.
_STATUS_PAUSE_S = 0.2
_STORE_PAUSE_S = 0.1  # between two tries to store buffered swipes at a stop
# Longer than any normal operation: a commit on a failing SD card; a call with every renewal and timeout.
_READER_HUNG_S = 60.0
_UPLOADER_HUNG_S = LONGEST_CALL_S
_INSPECTOR_HUNG_S = 7200.0  # the integrity check of ten million rows on a slow card
_FINGERPRINT_SHOWN = len("SHA256:") + 8  # enough to distinguish keys


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises what build() raises, and the OutboxError that ended a thread."""
    Supervisor(settings).run()


class Supervisor:
    """Owns the threads of one agent."""

    def __init__(self, settings: Settings) -> None:
        """Install the signal handlers, check the settings and open the outbox; starts no thread."""
        self._wakeup = Wakeup()
        self._stopping = False
        self._replay_requested = self._reload_requested = False
        # Before anything slow: a SIGTERM during start-up must be a clean stop, too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_replay)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.set_wakeup_fd(self._wakeup.fd, warn_on_full_buffer=False)
        with notify.extend_start_timeout():
            self._agent: Agent = build(settings, kept=self._wake_uploader, changed=self._wakeup.set)
        if problem := state_problem(settings):
            _log.error("%s; %s", problem, HINT, extra=fields(MessageId.STATE_NOT_DURABLE))
        self._upload_loop = UploadLoop(self._agent, on_news=self._wakeup.set)
        self._inspector = Inspector(self._agent.outbox, recovered=self._wake_uploader)
        self._runtime_dir = settings.agent.runtime_dir
        self._workers = [
            Worker("uploader", self._upload_loop.run, ended=self._wakeup.set, hung_after_s=_UPLOADER_HUNG_S),
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
        self._reader_workers = self._workers[1:]
        self._hung: list[Worker] = []

    def run(self) -> None:
        """Start, watch until a signal or an OutboxError, stop."""
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
            notify.send("READY=1", f"STATUS={self._status_line()}")
            self._start_inspector()
            self._watch()
        finally:
            self._stop()
        for worker in self._workers:
            if worker.fatal is not None:
                raise worker.fatal

    def _prepare(self) -> None:
        try:
            self._runtime_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            self._agent.status_report.write(self._runtime_dir)
        except OSError as error:
            raise NotPermittedError(
                f"cannot write in the runtime directory {self._runtime_dir}: {error.strerror}",
                hint="run as the agent's user, or set [agent] runtime_dir to a directory that user may write",
            ) from error

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True

    def _on_replay(self, _number: int, _frame: FrameType | None) -> None:
        self._replay_requested = True

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload_requested = True

    def _wake_uploader(self) -> None:
        self._upload_loop.wake()

    # --- the main thread --------------------------------------------------------------------------

    def _watch(self) -> None:
        watchdog_s = notify.watchdog_seconds()
        while not self._stopping and all(worker.fatal is None for worker in self._workers):
            if watchdog_s is not None and self._is_healthy():
                notify.send("WATCHDOG=1")
            if self._replay_requested:
                self._replay_requested = False
                self._wake_uploader()
            if self._reload_requested:
                self._reload_requested = False
                self._reload()
            self._write_status()
            time.sleep(_STATUS_PAUSE_S)
            self._wakeup.wait(watchdog_s / 3 if watchdog_s is not None else None)

    def _reload(self) -> None:
        """Load the private key again; readers, outbox and a request in progress are not interrupted."""
        notify.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        client = self._agent.client
        before = client.key
        try:
            key = client.reload_key()
        except (KeyFileError, NotPermittedError) as error:
            _log.error(
                "reload: %s; the agent keeps its present key; %s",
                error,
                error.hint,
                extra=fields(error=error),
            )
        else:
            what = "the same key" if key == before else "a new key"
            _log.info("reload: signing with %s, %s...", what, key.fingerprint[:_FINGERPRINT_SHOWN])
            self._agent.uploader.retry_now()
            self._wake_uploader()
        notify.send("READY=1", f"STATUS={self._status_line()}")

    def _is_healthy(self) -> bool:
        """Whether no worker is hung; logs each worker that hangs or responds again."""
        hung = [worker for worker in self._workers if not worker.is_healthy()]
        for worker in hung:
            if worker not in self._hung:
                _log.error(
                    "%s: hangs; watchdog notifications are withheld until systemd restarts the agent",
                    worker.name,
                    extra=fields(MessageId.THREAD_HUNG, reader=worker.reader),
                )
        for worker in self._hung:
            if worker not in hung:
                _log.info("%s: responds again", worker.name, extra=fields(reader=worker.reader))
        self._hung = hung
        return not hung

    def _write_status(self) -> None:
        try:
            self._agent.status_report.write(self._runtime_dir)
        except OSError as error:
            # Only `badge-agent status` needs the file; reading and delivery continue.
            _log.debug("cannot write the status file: %s", error)
        notify.send(f"STATUS={self._status_line()}")

    def _status_line(self) -> str:
        snapshot: dict[str, Any] = self._agent.status_report.snapshot()
        uploader, readers = snapshot["uploader"], snapshot["readers"]
        pending = self._agent.outbox.pending
        is_open = sum(reader["state"] == "open" for reader in readers)
        reason = f": {uploader['reason']}" if uploader["reason"] else ""
        return f"{pending} pending, {is_open} of {len(readers)} readers open, {uploader['state']}{reason}"

    def _stop(self) -> None:
        signal.set_wakeup_fd(-1)
        notify.send("STOPPING=1")
        deadline = time.monotonic() + _STOP_S
        for worker in self._workers:
            worker.stopping()
        for session in self._agent.readers:
            session.stop()
        self._upload_loop.stop()
        self._inspector.stop()
        # Readers first: their last swipes must be stored before the file is closed.
        ended = [worker.join(max(0.0, deadline - time.monotonic())) for worker in self._reader_workers]
        self._store_buffered(deadline)
        ended += [worker.join(max(0.0, deadline - time.monotonic())) for worker in self._workers]
        if all(ended):
            self._agent.outbox.close()
            _log.info(
                "stopped; %d swipes are not yet sent or not yet confirmed",
                self._agent.outbox.pending,
                extra=fields(MessageId.STOPPED),
            )
        else:
            # Closing the file is optional: every stored swipe was durable when its keep() returned.
            _log.info(
                "stopped during a request or a check; the next start asks how much was committed",
                extra=fields(MessageId.STOPPED),
            )

    def _store_buffered(self, deadline: float) -> None:
        """Store swipes that wait in memory, with the reserve; log the number of those that are lost."""
        workers = zip(self._reader_workers, self._agent.readers, strict=True)
        # A thread that still runs is using its buffer.
        waiting = [session for worker, session in workers if session.counts.buffered and worker.join(0.0)]
        if waiting:
            self._agent.outbox.free_reserve()
            with contextlib.suppress(OutboxError):
                while sum(session.store_buffered() for session in waiting) and time.monotonic() < deadline:
                    time.sleep(_STORE_PAUSE_S)
        if lost := sum(session.counts.buffered for session in self._agent.readers):
            _log.error(
                "%d swipes in memory are lost: the outbox could not be written until the stop",
                lost,
                extra=fields(MessageId.SWIPES_LOST),
            )

    def _start_inspector(self) -> None:
        """Check the file and recover rows in a thread, after READY: it may be large, and readers must not wait."""
        worker = Worker(
            "inspector", self._inspector.run, ended=self._wakeup.set, hung_after_s=_INSPECTOR_HUNG_S
        )
        worker.start()
        self._workers.append(worker)
