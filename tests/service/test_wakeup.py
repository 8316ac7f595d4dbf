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
    bell = Wakeup()
    bell.ring()

    bell.wait(None)


def test_a_ring_from_another_thread_ends_the_wait() -> None:
    bell = Wakeup()
    thread = threading.Thread(target=bell.ring)
    thread.start()

    bell.wait(None)

    thread.join()


def test_many_rings_are_heard_as_one_and_never_block() -> None:
    bell = Wakeup()
    for _ in range(100_000):  # more than the pipe holds
        bell.ring()

    for _ in range(100):
        bell.wait(0.0)

    waiter = threading.Thread(target=bell.wait, args=(None,))
    waiter.start()
    bell.ring()
    waiter.join(5.0)
    assert not waiter.is_alive()


def test_an_unrung_wait_ends_with_its_timeout() -> None:
    Wakeup().wait(0.01)


@pytest.mark.usefixtures("usr1")
def test_a_signal_rings_it() -> None:
    bell = Wakeup()
    signal.set_wakeup_fd(bell.fd)

    signal.raise_signal(signal.SIGUSR1)

    bell.wait(None)
