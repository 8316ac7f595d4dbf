from __future__ import annotations

import contextlib
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.clock.system_clock import RELEASED_US
from agent.config.loader import load
from agent.errors import NotPermittedError, OutboxInUseError
from agent.keys.keypair import new_key, pem
from agent.log.message_ids import MessageId, fields_of
from agent.outbox import ErrorCount, LiveRows, Outbox, database, is_held, read_counts
from agent.service import supervisor as supervisor_module
from agent.service.build import build, build_readers
from agent.service.status_file import read_status
from agent.service.supervisor import Supervisor
from agent.service.upload_loop import UploadLoop
from agent.settings import Settings
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.needs import SYSTEMD_PYTHON, needs
from tests.support.outbox_rig import commit
from tests.support.service_manager import ServiceManager
from tests.support.swipes import instant, swipe, wait_until


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def ended_as_its_process() -> Iterator[None]:
    """What a stop leaves to the end of the process ends with the test."""
    yield
    for supervisor in ran:
        for worker in supervisor._workers:
            worker.join(30.0)
        if supervisor._agent is not None:
            supervisor._agent.outbox.file.close()
    ran.clear()


@pytest.fixture
def settings(tmp_path: Path, line: PtyReader, rsa_key_file: Path) -> Settings:
    """A door whose pipe cannot be reached: nothing listens on the discard port."""
    agent = AgentProcess(
        tmp_path / "door",
        url="http://127.0.0.1:9",
        private_key_file=rsa_key_file,
        readers=[reader_table(line.device)],
    )
    return load(agent.config)


_LOCK_WAIT_S = 4.0  # less than SQLite waits for a lock
signalled: list[float] = []  # when the scripts of the tests ended
ran: list[Supervisor] = []  # in the test that runs


def nothing() -> None:
    """For a callback that is not needed."""


def reader_is_open(settings: Settings) -> bool:
    status = read_status(settings.agent.id, settings.agent.state_dir, settings.agent.runtime_dir)
    return [reader["state"] for reader in status["readers"]] == ["open"]


def pending(settings: Settings) -> int:
    return read_counts(settings.agent.state_dir).pending


def run_while(
    settings: Settings, script: Callable[[], None], number: signal.Signals = signal.SIGTERM
) -> None:
    """Run an agent in this process; the script runs once its reader is open, then the signal is sent."""

    def once_open() -> None:
        wait_until(lambda: reader_is_open(settings), what="an open reader")
        script()

    run_while_supervisor(Supervisor(settings), once_open, number)


def run_while_supervisor(
    supervisor: Supervisor, script: Callable[[], None], number: signal.Signals = signal.SIGTERM
) -> None:
    """Run it in this process; the script runs in parallel, then the signal is sent."""
    failed: list[BaseException] = []
    ran.append(supervisor)

    def in_parallel() -> None:
        try:
            script()
        except BaseException as error:  # noqa: BLE001 - raised again below, in the test's own thread
            failed.append(error)
        signalled.append(time.monotonic())
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=in_parallel)
    thread.start()
    supervisor.run()
    thread.join()
    if failed:
        raise failed[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_what_was_swiped_is_kept(
    settings: Settings, line: PtyReader, number: signal.Signals
) -> None:
    def swipe_once() -> None:
        line.present(1)
        wait_until(lambda: pending(settings) == 1, what="a kept swipe")

    run_while(settings, swipe_once, number)

    assert pending(settings) == 1


def test_an_unreachable_pipe_is_one_warning_and_holds_up_no_swipe(
    settings: Settings, line: PtyReader, caplog: pytest.LogCaptureFixture
) -> None:
    def swipe_on() -> None:
        for tag in range(1, 21):
            line.present(tag)
        wait_until(lambda: pending(settings) == 20, what="20 kept swipes")
        wait_until(lambda: "no connection to" in caplog.text, what="a warning")

    run_while(settings, swipe_on)

    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].getMessage().startswith("uploader: ")


def outbox_of(supervisor: Supervisor) -> Outbox:
    """The outbox of a running agent."""
    assert supervisor._agent is not None
    return supervisor._agent.outbox


def swipes_in_memory(settings: Settings) -> int:
    status = read_status(settings.agent.id, settings.agent.state_dir, settings.agent.runtime_dir)
    return sum(reader["unkept"] for reader in status["readers"])


def test_swipes_wait_while_the_outbox_cannot_be_written_and_are_stored_afterwards(
    settings: Settings, line: PtyReader, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(settings)

    def allow_writes(*, allow: bool) -> None:
        file = outbox_of(supervisor).file
        with file.write_lock:
            file._writer.execute(f"PRAGMA query_only={int(not allow)}")

    def swipe_on() -> None:
        wait_until(lambda: reader_is_open(settings), what="an open reader")
        allow_writes(allow=False)
        for tag in range(1, 4):
            line.present(tag)
        wait_until(lambda: swipes_in_memory(settings) == 3, what="swipes in memory")
        allow_writes(allow=True)
        wait_until(lambda: pending(settings) == 3, what="three stored swipes")

    run_while_supervisor(supervisor, swipe_on)

    assert pending(settings) == 3
    assert "attempt to write a readonly database" in caplog.text
    assert "bug" not in caplog.text


def test_a_lock_of_another_program_does_not_end_it(
    settings: Settings, line: PtyReader, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(database, "_BUSY_S", 0.2)

    def swipe_on() -> None:
        with closing(sqlite3.connect(settings.agent.state_dir / "outbox.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            line.present(1)
            wait_until(lambda: swipes_in_memory(settings) == 1, what="a swipe in memory")
            other.rollback()
        wait_until(lambda: pending(settings) == 1, what="a stored swipe")

    run_while(settings, swipe_on)

    assert "sudo fuser -v" in caplog.text


def test_swipes_in_memory_at_a_stop_are_stored_with_the_reserve(settings: Settings, line: PtyReader) -> None:
    supervisor = Supervisor(settings)
    freed: list[bool] = []

    def free_reserve() -> None:
        outbox_of(supervisor).file._writer.execute("PRAGMA query_only=0")
        freed.append(True)

    def swipe_on() -> None:
        wait_until(lambda: reader_is_open(settings), what="an open reader")
        outbox = outbox_of(supervisor)
        with outbox.file.write_lock:
            outbox.file._writer.execute("PRAGMA query_only=1")
        outbox._reserve.free_rest = free_reserve  # type: ignore[method-assign] # the disk takes it then
        for tag in range(1, 4):
            line.present(tag)
        wait_until(lambda: swipes_in_memory(settings) == 3, what="swipes in memory")

    run_while_supervisor(supervisor, swipe_on)

    assert freed == [True]
    assert pending(settings) == 3


def test_swipes_that_even_a_stop_cannot_store_are_one_line_with_their_number(
    settings: Settings, line: PtyReader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_STOP_S", 1.0)
    supervisor = Supervisor(settings)

    def swipe_on() -> None:
        wait_until(lambda: reader_is_open(settings), what="an open reader")
        file = outbox_of(supervisor).file
        with file.write_lock:
            file._writer.execute("PRAGMA query_only=1")
        for tag in range(1, 4):
            line.present(tag)
        wait_until(lambda: swipes_in_memory(settings) == 3, what="swipes in memory")

    begin = time.monotonic()
    run_while_supervisor(supervisor, swipe_on)

    lost = [
        record for record in caplog.records if fields_of(record).get("MESSAGE_ID") == MessageId.SWIPES_LOST
    ]
    assert [record.getMessage() for record in lost] == [
        "3 swipes in memory are lost: the outbox could not be written until the stop"
    ]
    assert time.monotonic() - begin < 30.0


def test_whatever_is_wrong_with_the_outbox_what_was_read_waits(
    settings: Settings, line: PtyReader, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(settings)

    def rename(table: str, to: str) -> None:
        file = outbox_of(supervisor).file
        with file.write_lock, file.read_lock:
            file._writer.execute(f"ALTER TABLE {table} RENAME TO {to}")

    def swipe_on() -> None:
        wait_until(lambda: reader_is_open(settings), what="an open reader")
        rename("swipes", "away")
        for tag in range(1, 4):
            line.present(tag)
        wait_until(lambda: swipes_in_memory(settings) == 3, what="swipes in memory")
        rename("away", "swipes")
        wait_until(lambda: swipes_in_memory(settings) == 0, what="stored swipes")

    run_while_supervisor(supervisor, swipe_on)

    assert pending(settings) == 3
    assert "no such table" in caplog.text


def test_swipes_read_while_the_outbox_cannot_be_opened_are_stored_once_it_is_open(
    settings: Settings, line: PtyReader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_BUSY_S", 0.1)
    Outbox(settings.agent.state_dir, agent_id=settings.agent.id).close()
    supervisor = Supervisor(settings)

    def swipe_on() -> None:
        with closing(sqlite3.connect(settings.agent.state_dir / "outbox.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            wait_until(lambda: "database is locked" in caplog.text, what="the cause in the log")
            for tag in range(1, 4):
                line.present(tag)
            wait_until(lambda: len(supervisor._readers.queue) == 3, what="swipes in memory")
            other.rollback()
        wait_until(lambda: pending(settings) == 3, what="stored swipes")

    run_while_supervisor(supervisor, swipe_on)

    assert pending(settings) == 3


def test_a_runtime_directory_that_cannot_be_made_is_named_and_nothing_is_left_locked(
    settings: Settings,
) -> None:
    settings.agent.runtime_dir.touch()

    for _ in range(2):
        with pytest.raises(NotPermittedError, match=f"runtime directory {settings.agent.runtime_dir}"):
            Supervisor(settings).run()


def test_a_second_agent_on_the_same_state_is_refused_before_anything_runs(settings: Settings) -> None:
    first = Supervisor(settings)

    with pytest.raises(OutboxInUseError, match=f"pid {os.getpid()}"):
        Supervisor(settings)

    first._stop()


def test_old_rows_are_purged_once_they_are_committed(settings: Settings) -> None:
    readers = build_readers(settings, changed=nothing)
    agent = build(readers, kept=nothing, changed=nothing)
    outbox = agent.outbox
    outbox.keep(*(swipe(value, read_at=instant(wall_us=RELEASED_US)) for value in (1, 2)))
    commit(outbox, 1)

    assert UploadLoop(agent, on_news=nothing).purge() == 1
    assert read_counts(settings.agent.state_dir).kept == 0
    outbox.close()


def test_readers_on_one_port_have_one_session_and_each_its_status(settings: Settings) -> None:
    (reader,) = settings.readers
    select: dict[str, object] = {"select": "A"}
    first = replace(reader, id="A", protocol="monkeyboard", options=select)
    second = replace(first, id="B", options={"select": "B"})
    readers = build_readers(replace(settings, readers=(first, second)), changed=nothing)
    agent = build(readers, kept=nothing, changed=nothing)

    shown = agent.status_report.snapshot()["readers"]

    assert [session.ids for session in readers.sessions] == ["A, B"]
    assert [(each["id"], each["device"]) for each in shown] == [
        ("A", str(reader.port)),
        ("B", str(reader.port)),
    ]
    agent.outbox.close()


def test_rows_among_which_an_error_may_still_be_counted_are_not_purged(settings: Settings) -> None:
    agent = build(build_readers(settings, changed=nothing), kept=nothing, changed=nothing)
    agent.outbox.keep(*(swipe(value, read_at=instant(wall_us=RELEASED_US)) for value in range(1, 5)))
    source = LiveRows(agent.outbox)
    source.commit((0, 3), ErrorCount(1, 0, bounds=((0, 1), (0, 3))), None)

    freed = UploadLoop(agent, on_news=nothing).purge()

    assert freed == 1  # the rows before the first bound
    agent.outbox.close()


_HOLD = """
import sqlite3, sys
file = sqlite3.connect(sys.argv[1], isolation_level=None)
file.execute(sys.argv[2]).fetchall()
file.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(database: Path, first: str = "SELECT 1") -> Iterator[None]:
    """Another process holds the lock of the outbox file."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(database), first],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        yield
        holder.communicate("")


def test_a_lock_that_another_process_holds_does_not_delay_the_stop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor_module, "_STOP_S", 0.5)
    caplog.set_level(logging.INFO)
    with contextlib.ExitStack() as holder:
        run_while(settings, lambda: holder.enter_context(locked(settings.agent.state_dir / "outbox.db")))
        ended = time.monotonic()

    assert "stopped during a request or work on the disk" in caplog.text
    assert ended - signalled[-1] < _LOCK_WAIT_S


def test_a_stop_of_an_agent_that_waits_for_the_lock_at_its_start_is_not_delayed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_STOP_S", 0.5)
    run_while(settings, nothing)
    supervisor = Supervisor(settings)
    with locked(settings.agent.state_dir / "outbox.db", "PRAGMA locking_mode=EXCLUSIVE"):
        run_while_supervisor(
            supervisor,
            lambda: wait_until(
                lambda: (
                    supervisor._readers.sessions[0].readers[0].counts.state == "open"
                    and supervisor._opening is not None
                ),
                what="an open reader, and a thread that opens the outbox",
            ),
        )
        ended = time.monotonic()
        was_held = is_held(settings.agent.state_dir)

    assert ended - signalled[-1] < _LOCK_WAIT_S
    # The thread that opens the file may still change it.
    assert was_held
    assert supervisor._opening is not None
    supervisor._opening.join()
    assert not is_held(settings.agent.state_dir)  # it closes what it has opened too late


# --- reload -----------------------------------------------------------------------------------


def reload_and_wait(caplog: pytest.LogCaptureFixture) -> str:
    """Send the request and return the log line with its outcome."""
    before = sum(record.getMessage().startswith("reload: ") for record in caplog.records)
    os.kill(os.getpid(), signal.SIGHUP)

    def lines() -> list[str]:
        return [text for record in caplog.records if (text := record.getMessage()).startswith("reload: ")]

    wait_until(lambda: len(lines()) > before, what="the line about the reload")
    return lines()[-1]


def test_a_reload_takes_the_key_that_is_there_now_and_the_readers_go_on(
    settings: Settings, line: PtyReader, caplog: pytest.LogCaptureFixture, rsa_key_file: Path, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, logger="agent")
    key_file = tmp_path / "rsa_key.p8"
    key_file.touch(mode=0o600)
    key_file.write_bytes(rsa_key_file.read_bytes())
    settings = replace(settings, snowflake=replace(settings.snowflake, private_key_file=key_file))
    new = new_key()

    def replace_key() -> None:
        line.present(1)
        unchanged = reload_and_wait(caplog)
        key_file.write_bytes(pem(new))
        changed = reload_and_wait(caplog)
        key_file.write_text("broken")
        broken = reload_and_wait(caplog)
        line.present(2)
        wait_until(lambda: pending(settings) == 2, what="both swipes")

        assert "signing with the same key, SHA256:" in unchanged
        assert changed == f"reload: signing with a new key, {new.fingerprint[:15]}..."
        assert "holds no PEM private key" in broken
        assert "keeps its present key" in broken
        events = [
            fields_of(record).get("MESSAGE_ID")
            for record in caplog.records
            if record.getMessage().startswith("reload: ")
        ]
        reloaded, failed = str(MessageId.KEY_RELOADED), str(MessageId.KEY_NOT_RELOADED)
        assert events == [reloaded, reloaded, failed]
        assert key_of(settings)["fingerprint"] == new.fingerprint

    run_while(settings, replace_key)


def key_of(settings: Settings) -> dict[str, Any]:
    status = read_status(settings.agent.id, settings.agent.state_dir, settings.agent.runtime_dir)
    key: dict[str, Any] = status["key"]
    return key


def test_the_service_manager_is_told_of_a_reload(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needs(SYSTEMD_PYTHON)
    caplog.set_level(logging.INFO, logger="agent")

    with ServiceManager(tmp_path / "manager") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "manager" / "notify"))

        def reload() -> None:
            reload_and_wait(caplog)
            wait_until(lambda: manager.heard("READY=1") > 1, what="READY=1 once more")

        run_while(settings, reload)
        wait_until(lambda: manager.heard("STOPPING=1") > 0, what="the last word")

    states = [text.partition("\n")[0] for text in manager.told if not text.startswith(("STATUS", "FDSTORE"))]
    assert states == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"]
