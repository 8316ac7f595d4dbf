from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.log.log_queue import LogQueue
from tests.support.agent_process import (
    AgentProcess,
    PtyReader,
    assert_in_order_and_whole,
    reader_table,
    sent_rows,
)
from tests.support.emulator_process import EmulatorProcess
from tests.support.paths import ROOT
from tests.support.service_manager import ServiceManager

TAGS = list(range(0x63E9AE, 0x63E9AE + 30))
# Replaces stderr by a pipe that is full and never read.
STDERR_IS_FULL = """
import os
unread, full = os.pipe()
os.set_blocking(full, False)
try:
    while True:
        os.write(full, bytes(512))
except BlockingIOError:
    pass
os.set_blocking(full, True)
os.dup2(full, 2)
"""
# Replaces the journal's socket by one whose queue is full and never read.
JOURNAL_IS_FULL = """
import os, socket
os.unlink("/run/systemd/journal/socket")
unread = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
unread.bind("/run/systemd/journal/socket")
sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
sender.setblocking(False)
try:
    while True:
        sender.sendto(b"MESSAGE=x\\n", "/run/systemd/journal/socket")
except BlockingIOError:
    pass
"""
SET_UP = """
import logging
from agent.log import journal
journal.set_up("info")
log = logging.getLogger("agent.test")
"""


def started(code: str, stderr: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SET_UP + code], cwd=ROOT, stderr=stderr)


def record(text: str, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    exc_info = (type(error), error, None) if error is not None else None
    return logging.LogRecord("agent.test", logging.INFO, "a/file.py", 7, text, args, exc_info)


class SlowLog:
    """A log that takes lines only while it is open."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.is_open = threading.Event()
        self.is_waiting = threading.Event()

    def write(self, record: logging.LogRecord) -> None:
        self.is_waiting.set()
        assert self.is_open.wait(60)
        self.lines.append(record.getMessage())


# --- a log that nothing reads, and the real agent --------------------------------------------------


def test_swipes_are_kept_and_sent_while_stderr_is_a_full_pipe(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    with AgentProcess(
        tmp_path / "door",
        url=pipe.url,
        private_key_file=pipe.private_key_file,
        readers=[reader_table(line.device, more="hold_off_ms = 0")],
        log_level="debug",
        but_first=STDERR_IS_FULL,
    ) as agent:
        line.present_steadily(TAGS, per_second=50)
        agent.wait_until_committed(len(TAGS))
        code, seconds = agent.end()

    assert_in_order_and_whole(sent_rows(pipe), TAGS)
    assert code == 0
    assert seconds < 5


def test_swipes_are_kept_and_sent_while_the_journal_is_not_read(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    with (
        ServiceManager(tmp_path / "manager", has_journal=True) as manager,
        AgentProcess(
            tmp_path / "door",
            url=pipe.url,
            private_key_file=pipe.private_key_file,
            readers=[reader_table(line.device, more="hold_off_ms = 0")],
            log_level="debug",
            under=manager,
            but_first=JOURNAL_IS_FULL,
        ) as agent,
    ):
        line.present_steadily(TAGS, per_second=50)
        agent.wait_until_committed(len(TAGS))
        code, seconds = agent.end()

    assert_in_order_and_whole(sent_rows(pipe), TAGS)
    assert (code, manager.entries) == (0, [])
    assert seconds < 5


# --- exit and crash --------------------------------------------------------------------------------


def test_every_line_is_written_before_a_process_ends() -> None:
    process = started('for n in range(900): log.info(f"line {n}")', subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        lines = process.stderr.read().decode().splitlines()

    assert process.wait(10) == 0
    assert [text.rpartition("INFO    ")[2] for text in lines] == [f"line {n}" for n in range(900)]


def test_a_crash_is_on_stderr_and_so_are_the_lines_before_it() -> None:
    process = started('log.info("the last line")\nraise RuntimeError("a bug")', subprocess.PIPE)
    assert process.stderr is not None
    with process.stderr:
        text = process.stderr.read().decode()

    assert process.wait(10) == 1
    assert "the last line" in text
    assert "Traceback" in text
    assert "RuntimeError: a bug\n" in text


def test_a_process_ends_within_a_bound_while_its_log_is_not_read() -> None:
    code = f"{STDERR_IS_FULL}\njournal.set_up('info')\nfor n in range(3000): log.info(str(n))\nprint('x')"
    begun = time.monotonic()
    process = started(code, subprocess.DEVNULL)

    assert process.wait(30) == 0
    assert time.monotonic() - begun < 10  # a second of it for the log, the rest for the interpreter


def test_lines_that_found_no_room_are_counted_where_they_are_missing() -> None:
    unread, full = os.pipe()
    code = 'for n in range(9000): log.info(f"line {n}")\nprint("logged", flush=True)\ninput()'
    process = subprocess.Popen(
        [sys.executable, "-c", f"{SET_UP}{code}"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=full,
    )
    os.close(full)
    assert process.stdin is not None
    assert process.stdout is not None
    with process.stdout, os.fdopen(unread, "rb") as stderr:
        assert process.stdout.readline() == b"logged\n"  # without a reader of stderr
        process.stdin.write(b"\n")
        process.stdin.close()
        lines = stderr.read().decode().splitlines()

    assert process.wait(10) == 0
    # On a busy machine the pipe may fill up with pauses, and so with several gaps.
    expected, gaps = 0, 0
    for text in lines:
        gap = re.search(r"log: (\d+) lines? (?:was|were) dropped here", text)
        if gap is None:
            assert int(text.rpartition("line ")[2]) == expected
        gaps += gap is not None
        expected += int(gap[1]) if gap else 1
    assert gaps >= 1
    assert expected == 9000


# --- the queue itself ------------------------------------------------------------------------------


def test_a_log_call_does_not_wait_and_a_gap_is_reported_once_in_its_place() -> None:
    log = SlowLog()
    queue = LogQueue(log.write)
    queue.handle(record("0"))
    assert log.is_waiting.wait(10)

    for number in range(1, 1501):
        queue.handle(record(str(number)))
    log.is_open.set()
    queue.flush()
    queue.handle(record("afterwards"))
    queue.flush()

    kept = [str(number) for number in range(1001)]
    assert log.lines == [*kept, "log: 500 lines were dropped here because the log was not read", "afterwards"]


def test_a_flush_ends_after_a_second() -> None:
    log = SlowLog()
    queue = LogQueue(log.write)
    queue.handle(record("0"))

    begun = time.monotonic()
    queue.flush()
    seconds = time.monotonic() - begun
    log.is_open.set()

    assert 0.9 < seconds < 3


def test_what_is_queued_is_text_of_the_moment_of_the_call() -> None:
    log = SlowLog()
    queue = LogQueue(log.write)
    mutable = ["before"]

    queue.handle(record("%s", mutable, error=ValueError("x")))
    mutable[0] = "after"
    log.is_open.set()
    queue.flush()

    assert log.lines == ["['before']"]


@pytest.mark.parametrize(("text", "args"), [("%d", ("no number",)), ("%s %s", ("one",))])
def test_a_line_that_cannot_be_formatted_names_its_place_only(text: str, args: tuple[object, ...]) -> None:
    log = SlowLog()
    log.is_open.set()
    queue = LogQueue(log.write)

    queue.handle(record(text, *args))
    queue.flush()

    assert log.lines == ["a/file.py:7: cannot format the line: TypeError"]
