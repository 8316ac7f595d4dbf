from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from agent.service.wakeup import Wakeup


@pytest.fixture
def usr1() -> Iterator[None]:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    yield
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGUSR1, before)


def test_a_ring_before_the_wait_is_not_missed() -> None:
    wakeup = Wakeup()
    wakeup.set()

    wakeup.wait(None)


def test_a_ring_from_another_thread_ends_the_wait() -> None:
    wakeup = Wakeup()
    thread = threading.Thread(target=wakeup.set)
    thread.start()

    wakeup.wait(None)

    thread.join()


def test_many_rings_are_heard_as_one_and_never_block() -> None:
    wakeup = Wakeup()
    for _ in range(100_000):  # more than the pipe holds
        wakeup.set()

    for _ in range(100):
        wakeup.wait(0.0)

    waiter = threading.Thread(target=wakeup.wait, args=(None,))
    waiter.start()
    wakeup.set()
    waiter.join(5.0)
    assert not waiter.is_alive()


def test_an_unrung_wait_ends_with_its_timeout() -> None:
    Wakeup().wait(0.01)


@pytest.mark.usefixtures("usr1")
def test_a_signal_rings_it() -> None:
    wakeup = Wakeup()
    signal.set_wakeup_fd(wakeup.fd)

    signal.raise_signal(signal.SIGUSR1)

    wakeup.wait(None)
