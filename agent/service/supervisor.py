"""The main thread: start the workers, watch them, notify systemd, stop cleanly."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from agent import __version__
from agent.errors import KeyFileError, NotPermittedError, OutboxUnavailableError
from agent.log.failure_log import FailureLog
from agent.log.message_ids import MessageId, fields
from agent.service import notify, run_events
from agent.service.build import Agent, build, build_readers
from agent.service.heartbeat_url import HeartbeatUrl, heartbeat_of
from agent.service.inspector import Inspector
from agent.service.port_watch import LOOK_EVERY_S
from agent.service.state_disk import HINT, state_problem
from agent.service.upload_loop import UploadLoop
from agent.service.wakeup import Wakeup
from agent.service.worker import Worker
from agent.settings import Settings
from agent.snowpipe.client import LONGEST_CALL_S

_log = logging.getLogger(__name__)

# From SIGTERM to the end: 5 s are promised, one of them is left for the interpreter's exit.
_STOP_S = 4.0
_CLOSING_S = 0.5
# Shortest time between two status files: the file is on tmpfs, but writing it costs a Pi Zero CPU time.
_STATUS_PAUSE_S = 0.2
_REOPEN_S = 1.0  # between two tries to open an outbox on a disk that cannot be used
_PAUSE_S = 0.1
# Longer than any normal operation: a commit on a failing SD card; a call with every renewal and timeout.
_READER_HUNG_S = 60.0
_WRITER_HUNG_S = 60.0
_UPLOADER_HUNG_S = LONGEST_CALL_S + _WRITER_HUNG_S  # one call, and what it writes to the outbox
_INSPECTOR_HUNG_S = 7200.0  # the integrity check of ten million rows on a slow card
_FINGERPRINT_SHOWN = len("SHA256:") + 8  # enough to distinguish keys


def run(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT. Raises what build_readers() and build() raise."""
    Supervisor(settings).run()


class Supervisor:
    """Owns the threads of one agent."""

    def __init__(self, settings: Settings) -> None:
        """Install the signal handlers, check the settings, lock the state directory; starts no thread."""
        self._wakeup = Wakeup()
        self._stopping = False
        self._stop_by_s: float | None = None
        self._stop_reason = "error"
        self._replay_requested = self._reload_requested = False
        # Before anything slow: a SIGTERM during start-up must be a clean stop, too.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGUSR1, self._on_replay)
        signal.signal(signal.SIGHUP, self._on_reload)
        signal.set_wakeup_fd(self._wakeup.fd, warn_on_full_buffer=False)
        self._readers = build_readers(settings, changed=self._wakeup.set)
        self._event_log = self._readers.event_log
        logging.getLogger("agent").addHandler(self._event_log)
        if problem := state_problem(settings):
            _log.error("%s; %s", problem, HINT, extra=fields(MessageId.STATE_NOT_DURABLE))
        self._runtime_dir = settings.agent.runtime_dir
        self._reader_workers = [
            Worker(
                f"reader {session.ids}",
                session.run,
                hung_after_s=_READER_HUNG_S,
                reader=session.ids,
            )
            for session in self._readers.sessions
        ]
        self._workers = list(self._reader_workers)
        self._agent: Agent | None = None  # until the outbox is open
        self._opening: threading.Thread | None = None  # of the last try to open it
        self._upload_loop: UploadLoop | None = None
        self._inspector: Inspector | None = None
        self._heartbeat: HeartbeatUrl | None = None
        self._hung: list[Worker] = []

    def run(self) -> None:
        """Read, open the outbox, watch until a signal, stop. Raises the OutboxError of a failed opening."""
        try:
            with self._runtime_dir_errors():
                self._runtime_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
            for worker in self._reader_workers:
                worker.start()
            agent = self._open_outbox()
            if agent is not None:
                self._start(agent)
                self._watch(agent)
        finally:
            self._stop()
            logging.getLogger("agent").removeHandler(self._event_log)

    def _open_outbox(self) -> Agent | None:
        """Open the outbox; again and again while the disk cannot be used. None: a signal came first.

        Meanwhile the readers' swipes wait in the queue.
        """
        failures = FailureLog(_log, "outbox", time.monotonic, recovery=MessageId.DISK_HAS_ROOM)
        while not self._stopping:
            try:
                with notify.extend_start_timeout():
                    agent = self._build()
            except OutboxUnavailableError as error:
                failures.failed(error, MessageId.DISK_FULL)
                self._readers.queue.problem = error
                self._readers.queue.refuse_excess()
                notify.extend_start(f"the outbox cannot be opened: {error}")
                self._sleep(_REOPEN_S)
            else:
                if agent is not None:
                    failures.recovered()
                return agent
        return None

    def _build(self) -> Agent | None:
        """Build the agent in a thread: a stop must not wait for a lock on the outbox, or for a slow disk.

        None if that is not done at the time by which the process has to end.
        """
        built: list[Agent] = []
        failed: list[BaseException] = []
        is_late = threading.Event()

        def body() -> None:
            try:
                agent = build(self._readers, kept=self._wake_uploader, changed=self._wakeup.set)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failed.append(error)
            else:
                built.append(agent)
                if is_late.is_set():
                    agent.outbox.close()

        self._opening = thread = threading.Thread(target=body, name="opening", daemon=True)
        thread.start()
        while thread.is_alive() and (self._stop_by_s is None or time.monotonic() < self._stop_by_s):
            thread.join(_PAUSE_S)
        if thread.is_alive():
            is_late.set()
            return None
        if failed:
            raise failed[0]
        return built[0]

    def _sleep(self, seconds: float) -> None:
        """Wait, or until a signal asks for the stop."""
        ends_s = time.monotonic() + seconds
        while not self._stopping and time.monotonic() < ends_s:
            time.sleep(_PAUSE_S)

    def _start(self, agent: Agent) -> None:
        self._agent = agent
        self._upload_loop = UploadLoop(agent, on_news=self._wakeup.set)
        writer = Worker("writer", agent.write_loop.run, hung_after_s=_WRITER_HUNG_S)
        self._workers.append(writer)
        writer.start()
        with self._runtime_dir_errors():
            agent.status_report.write(self._runtime_dir)
        uploader = Worker("uploader", self._upload_loop.run, hung_after_s=_UPLOADER_HUNG_S)
        # Checks the whole file after READY: it may be large, and swipes must not wait.
        self._inspector = Inspector(agent.outbox, recovered=self._wake_uploader)
        inspector = Worker("inspector", self._inspector.run, hung_after_s=_INSPECTOR_HUNG_S)
        uploader.start()
        _log.info(
            "badge-agent %s is ready; readers: %d",
            __version__,
            len(agent.settings.readers),
            extra=fields(MessageId.READY),
        )
        notify.send("READY=1", f"STATUS={_status_line(agent)}")
        run_events.note_start(agent, self._event_log)
        inspector.start()
        self._workers += [uploader, inspector]
        self._heartbeat = heartbeat_of(agent.settings, agent.status_report.status)
        if self._heartbeat is not None:
            self._heartbeat.start()

    @contextlib.contextmanager
    def _runtime_dir_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise NotPermittedError(
                f"cannot write in the runtime directory {self._runtime_dir}: {error.strerror}",
                hint="run as the agent's user, or set [agent] runtime_dir to a directory that user may write",
            ) from error

    def _on_stop(self, number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._stop_reason = signal.Signals(number).name
        if self._stop_by_s is None:
            self._stop_by_s = time.monotonic() + _STOP_S

    def _on_replay(self, _number: int, _frame: FrameType | None) -> None:
        self._replay_requested = True

    def _on_reload(self, _number: int, _frame: FrameType | None) -> None:
        self._reload_requested = True

    def _wake_uploader(self) -> None:
        if self._upload_loop is not None:
            self._upload_loop.wake()

    # --- the main thread --------------------------------------------------------------------------

    def _watch(self, agent: Agent) -> None:
        watchdog_s = notify.watchdog_seconds()
        while not self._stopping:
            if watchdog_s is not None and self._is_healthy():
                notify.send("WATCHDOG=1")
            if self._replay_requested:
                self._replay_requested = False
                self._wake_uploader()
            if self._reload_requested:
                self._reload_requested = False
                self._reload(agent)
            self._readers.port_watch.look()
            self._event_log.release_due()
            self._write_status(agent)
            time.sleep(_STATUS_PAUSE_S)
            self._wakeup.wait(watchdog_s / 3 if watchdog_s is not None else LOOK_EVERY_S)

    def _reload(self, agent: Agent) -> None:
        """Load the private key again; readers, outbox and a request in progress are not interrupted."""
        notify.send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        client = agent.client
        before = client.key
        try:
            key = client.reload_key()
        except (KeyFileError, NotPermittedError) as error:
            _log.error(
                "reload: %s; the agent keeps its present key; %s",
                error,
                error.hint,
                extra=fields(MessageId.KEY_NOT_RELOADED, error=error),
            )
        else:
            what = "the same key" if key == before else "a new key"
            _log.info(
                "reload: signing with %s, %s...",
                what,
                key.fingerprint[:_FINGERPRINT_SHOWN],
                extra=fields(MessageId.KEY_RELOADED),
            )
            agent.uploader.retry_now()
            self._wake_uploader()
        notify.send("READY=1", f"STATUS={_status_line(agent)}")

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

    def _store_repeats(self) -> None:
        """For the next process, which must not take a card that is still held for a new presentation."""
        readers = [reader for session in self._readers.sessions for reader in session.readers]
        self._readers.last_repeats.write({one.settings.id: one.counts.last_repeat_boot_us for one in readers})

    def _write_status(self, agent: Agent) -> None:
        self._store_repeats()
        try:
            agent.status_report.write(self._runtime_dir)
        except OSError as error:
            # Only `badge-agent status` needs the file; reading and delivery continue.
            _log.debug("cannot write the status file: %s", error)
        notify.send(f"STATUS={_status_line(agent)}")

    # --- the stop ---------------------------------------------------------------------------------

    def _stop(self) -> None:
        signal.set_wakeup_fd(-1)
        notify.send("STOPPING=1")
        deadline = self._stop_by_s or time.monotonic() + _STOP_S
        if self._agent is not None:
            # Stored when the file is closed: the next process reads what arrives from now on.
            self._agent.outbox.boots.observe(self._readers.clock.now())
        for worker in self._workers:
            worker.stopping()
        if self._heartbeat is not None:
            self._heartbeat.stop()
        for session in self._readers.sessions:
            session.stop()
        # Readers first: their last swipes must be queued before the writer ends.
        ended = [worker.join(max(0.0, deadline - time.monotonic())) for worker in self._reader_workers]
        self._store_repeats()
        if self._agent is None or self._upload_loop is None:
            self._log_lost()
            # A thread that still opens or recovers the outbox needs the lock until the process ends.
            if self._opening is None or not self._opening.is_alive():
                self._readers.lock.release()
            return
        self._upload_loop.stop()
        if self._inspector is not None:
            self._inspector.stop()
        # Earlier than the others: closing the file undoes a transaction that failed on a full disk.
        self._agent.write_loop.stop(deadline - _CLOSING_S)
        ended += [worker.join(max(0.0, deadline - time.monotonic())) for worker in self._workers]
        self._log_lost()
        if all(ended) and _ends_by(deadline, self._close):
            _log.info(
                "stopped; %d swipes are not yet sent or not yet confirmed",
                self._agent.outbox.pending,
                extra=fields(MessageId.STOPPED),
            )
        else:
            # Closing the file is optional: every stored swipe was durable when its keep() returned.
            _log.info(
                "stopped during a request or work on the disk; the next start asks how much was committed",
                extra=fields(MessageId.STOPPED),
            )

    def _close(self) -> None:
        """Store the last door events, the stop among them, and close the outbox."""
        if self._agent is not None:
            run_events.note_stop(self._agent, self._event_log, self._stop_reason)
            self._agent.outbox.close()

    def _log_lost(self) -> None:
        if lost := len(self._readers.queue):
            _log.error(
                "%d swipes in memory are lost: the outbox could not be written until the stop",
                lost,
                extra=fields(MessageId.SWIPES_LOST),
            )


def _ends_by(deadline: float, function: Callable[[], None]) -> bool:
    """Call a function in a thread; False if it has not ended at the deadline: it ends with the process.

    Closing the outbox waits for locks of other processes, and writes the log of the file into it.
    """
    thread = threading.Thread(target=function, name="closing", daemon=True)
    thread.start()
    thread.join(max(0.0, deadline - time.monotonic()))
    return not thread.is_alive()


def _status_line(agent: Agent) -> str:
    snapshot: dict[str, Any] = agent.status_report.snapshot()
    uploader, readers = snapshot["uploader"], snapshot["readers"]
    is_open = sum(reader["state"] == "open" for reader in readers)
    reason = f": {uploader['reason']}" if uploader["reason"] else ""
    pending = agent.outbox.pending
    return f"{pending} pending, {is_open} of {len(readers)} readers open, {uploader['state']}{reason}"
