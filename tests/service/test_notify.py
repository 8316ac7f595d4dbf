from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from agent.service import notify


def test_the_service_manager_hears_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("systemd.daemon", reason="the extra `systemd` is not installed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

        notify.tell("READY=1", "STATUS=0 pending")

        assert manager.recv(4096) == b"READY=1\nSTATUS=0 pending"


def test_without_a_service_manager_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(notify, "_notify", told.append)
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    notify.tell("READY=1")

    assert told == []


def test_without_the_library_telling_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "_notify", None)
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")

    notify.tell("READY=1")


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("30000000", str(os.getpid()), 30.0),
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
