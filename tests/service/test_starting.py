from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.service import notify
from agent.service.notify import extend_start_timeout
from tests.support.needs import SYSTEMD_PYTHON, needs
from tests.support.service_manager import ServiceManager
from tests.support.swipes import wait_until

MORE = "EXTEND_TIMEOUT_USEC=90000000"


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServiceManager]:
    needs(SYSTEMD_PYTHON)
    monkeypatch.setattr(notify, "_CHECK_EVERY_S", 0.1)
    with ServiceManager(tmp_path) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield manager


def test_a_start_that_works_is_given_more_time_again_and_again(manager: ServiceManager) -> None:
    def is_asked_for_thrice() -> bool:
        sum(range(100_000))
        return manager.heard(MORE) >= 3

    with extend_start_timeout():
        wait_until(is_asked_for_thrice, what="more time")


def test_a_start_that_hangs_is_given_none(manager: ServiceManager) -> None:
    with extend_start_timeout():
        time.sleep(1.0)

    assert manager.told == []


def test_after_the_start_nothing_is_asked_for(manager: ServiceManager) -> None:
    with extend_start_timeout():
        pass

    sum(range(20_000_000))

    assert manager.told == []
