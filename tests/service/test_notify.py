from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from agent.service import notify
from agent.service.fd_store import LastRepeats, StoredPorts
from tests.support.needs import SYSTEMD_PYTHON, needs


def test_the_service_manager_hears_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(SYSTEMD_PYTHON)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        notify.send("READY=1", "STATUS=0 pending")
        notify.send("STATUS=a\nWATCHDOG_USEC=1")

        assert manager.recv(4096) == b"READY=1\nSTATUS=0 pending"
        assert manager.recv(4096) == b"STATUS=a WATCHDOG_USEC=1"


def test_a_service_manager_that_is_not_there_for_a_moment_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))

    notify.send("READY=1")


def test_an_open_port_is_handed_to_the_service_manager_under_the_readers_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs(SYSTEMD_PYTHON)
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
        (tmp_path / "port").open("w+") as port,
    ):
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        StoredPorts().of("RDR-101", "/dev/null").put(port.fileno())

        assert manager.recv(4096) == b"FDSTORE=1\nFDNAME=last repeats"
        assert manager.recv(4096) == b"FDSTOREREMOVE=1\nFDNAME=RDR-101"
        message, fds, _, _ = socket.recv_fds(manager, 4096, maxfds=1)
        assert message == b"FDSTORE=1\nFDNAME=RDR-101"
        assert os.path.samestat(os.fstat(fds[0]), os.fstat(port.fileno()))
        os.close(fds[0])


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"\xff\n", b'{"RDR-101": "x"}\n'])
def test_the_last_repeats_of_the_process_before_are_read_and_damage_is_none(
    tmp_path: Path, damage: bytes
) -> None:
    with (tmp_path / "repeats").open("w+b", buffering=0) as file:
        LastRepeats(file.fileno()).write({"RDR-101": 123_456_789, "RDR-102": 7})
        LastRepeats(file.fileno()).write({"RDR-101": 5, "RDR-102": None})
        before = LastRepeats(file.fileno()).before_us
        file.truncate(0)
        os.pwrite(file.fileno(), damage, 0)

        assert before == {"RDR-101": 5}
        assert LastRepeats(file.fileno()).before_us == {}


HANDED_OVER = """
import os, sys
from agent.service.fd_store import StoredPorts
for number, device in enumerate(sys.argv[1:], 3):  # the numbers that systemd gives them
    os.dup2(os.open(device, os.O_RDWR | os.O_NOCTTY), number + 10)
for number in range(3, 3 + len(sys.argv[1:])):
    os.dup2(number + 10, number)
os.environ["LISTEN_PID"] = str(os.getpid())
held = StoredPorts()
port = held.of("RDR-101", sys.argv[1])
print(port.take(), port.take(), held.of("RDR-102", "/dev/full").take())
held.clear_others()
print(*(os.path.exists(f"/proc/self/fd/{number}") for number in (3, 4)))
"""


@pytest.mark.parametrize(
    "names",
    [
        pytest.param("RDR-101:RDR-OLD", id="by the reader's id"),
        pytest.param("RDR-OLD:RDR-101", id="by another's, as after a swap in the configuration"),
    ],
)
def test_the_next_process_finds_its_readers_port_once_and_closes_those_of_others(
    tmp_path: Path, names: str
) -> None:
    needs(SYSTEMD_PYTHON)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        ended = subprocess.run(
            [sys.executable, "-c", HANDED_OVER, "/dev/null", "/dev/zero"],
            env=os.environ
            | {"LISTEN_FDS": "2", "LISTEN_FDNAMES": names, "NOTIFY_SOCKET": str(tmp_path / "notify")},
            capture_output=True,
            text=True,
            check=True,
        )

        received = [manager.recv(4096) for _ in range(2)]

    assert ended.stdout.splitlines() == ["3 None None", "True False"]
    assert received == [b"FDSTORE=1\nFDNAME=last repeats", b"FDSTOREREMOVE=1\nFDNAME=RDR-OLD"]


def test_without_a_service_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    notify.send("READY=1")


def test_without_the_library_telling_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "daemon", None)
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")

    notify.send("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        pytest.param("30000000", str(os.getpid()), 30.0, id="this process"),
        ("30000000", "1", None),
        ("", None, None),
        ("often", None, None),
        ("0", None, None),
    ],
)
def test_the_watchdog_is_asked_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, seconds: float | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", pid)

    assert notify.watchdog_seconds() == seconds
