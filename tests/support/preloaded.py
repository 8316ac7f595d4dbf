"""Emulators that are forked from a process which has imported everything: a few ms instead of 0.7 s.

Theory of operation

A test run starts some hundred emulators, and to import the HTTP server takes longer than what the test does
with it. `Forked` connects to a process that has imported it (`python -m tests.support.preloaded SOCKET`, one
for each process that runs tests), and sends a command line, the environment and descriptors for its output.
That process forks another for this connection, which forks the emulator, answers with its pid, waits for its
end and answers with its exit code. Apart from its start the emulator is a process like any other: its
signals, descriptors and files are its own. tests/emulator/test_command.py starts it as a user does.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NoReturn, TextIO

from agent.cli import main
from tests.support.paths import ROOT

_LARGEST = 1 << 16


class Forked:
    """A running command, with what is used of subprocess.Popen."""

    def __init__(self, words: Sequence[str]) -> None:
        """Start `badge-agent` with these words; `stdout` is its output."""
        readable, writable = os.pipe()
        self.stdout: TextIO = os.fdopen(readable, encoding="utf-8")
        self._answers = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._answers.connect(_preloaded())
            socket.send_fds(
                self._answers, [json.dumps([list(words), dict(os.environ)]).encode()], [writable, 2]
            )
        finally:
            os.close(writable)
        self.pid = int(self._answers.recv(_LARGEST))

    def wait(self, timeout: float) -> int:
        """The exit code, as Popen.wait(). Raises TimeoutError."""
        self._answers.settimeout(timeout)
        return int(self._answers.recv(_LARGEST))

    def send_signal(self, number: int) -> None:
        """Send a signal, before wait() has returned."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        """Close the descriptors; the process has ended."""
        self.stdout.close()
        self._answers.close()


@cache
def _preloaded() -> str:
    """The socket of the process that has imported everything, which ends with this one."""
    directory = tempfile.TemporaryDirectory(prefix="preloaded-")
    path = Path(directory.name) / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", __name__, str(path)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()  # it listens

    def end() -> None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):  # not read to its end: an emulator may have it, too
            if pipe is not None:
                pipe.close()
        directory.cleanup()

    atexit.register(end)
    return str(path)


def _serve(path: str) -> None:
    importlib.import_module("agent.emulator.server")  # what takes long
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
        ends = sys.stdin  # when the run of the tests has ended
        while ends not in select.select([listener, ends], [], [])[0]:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    listener.close()
                    _wait_for_one(connection)


def _wait_for_one(connection: socket.socket) -> NoReturn:
    """Fork the command, and report its pid and its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request, (out, err), *_ = socket.recv_fds(connection, _LARGEST, 2)
    pid = os.fork()
    if pid == 0:
        connection.close()
        words, environment = json.loads(request)
        _run(words, environment, out, err)
    os.close(out)
    os.close(err)
    with contextlib.suppress(OSError):  # the test may have ended
        connection.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _run(words: list[str], environment: dict[str, str], out: int, err: int) -> NoReturn:
    for descriptor, number in ((os.open(os.devnull, os.O_RDONLY), 0), (out, 1), (err, 2)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    code = 1
    try:
        code = main(words)
    except BaseException:  # noqa: BLE001 - as the interpreter at its end
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
