from __future__ import annotations

import threading
import time

import pytest

from agent.backoff import Backoff
from agent.errors import OutboxBusyError, OutboxError
from agent.service import worker as worker_module
from agent.service.worker import Busy, Worker
from tests.support.swipes import wait_until


@pytest.fixture(autouse=True)
def quick_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "_RESTART_FIRST_S", 0.01)


def test_a_body_that_returns_is_not_run_again() -> None:
    runs: list[int] = []
    worker = Worker("reader A", lambda _: runs.append(1), hung_after_s=60)

    worker.start()

    assert worker.join(5.0)
    assert runs == [1]


def test_a_body_that_dies_is_run_again() -> None:
    runs: list[int] = []
    done = threading.Event()

    def body(_: Busy) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise ValueError("a mistake")
        done.set()

    worker = Worker("reader A", body, hung_after_s=60)

    worker.start()

    assert done.wait(5.0)
    assert worker.join(5.0)


def test_a_death_is_logged_with_its_place_and_without_what_it_says(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker("reader A", lambda _: None, hung_after_s=60)

    def body(_: Busy) -> None:
        worker.stopping()
        int("card 02F657AE")

    worker._body = body
    worker.start()

    assert worker.join(5.0)
    assert "reader A: thread died of ValueError" in caplog.text
    assert "in body" in caplog.text
    assert "card 02F657AE'" not in caplog.text


@pytest.mark.parametrize("error", [OutboxBusyError, ValueError])
def test_after_a_long_run_the_delay_is_the_shortest_again(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float] = []
    monkeypatch.setattr(worker_module, "_RECOVERED_AFTER_S", 0.0)
    monkeypatch.setattr(worker_module, "random", lambda: 0.0)
    worker = Worker("uploader", lambda _: None, hung_after_s=60)
    following = Backoff.next

    def noted(backoff: Backoff) -> float:
        delays.append(following(backoff))
        return delays[-1]

    def body(_: Busy) -> None:
        if len(delays) < 4:
            raise error("fails after days")

    monkeypatch.setattr(Backoff, "next", noted)
    worker._body = body

    worker.start()

    assert worker.join(5.0)
    assert len(set(delays)) == 1


@pytest.mark.parametrize("error", [OutboxBusyError, OutboxError])
def test_an_outbox_that_cannot_be_used_is_no_bug_and_no_end(
    error: type[OutboxError], caplog: pytest.LogCaptureFixture
) -> None:
    runs: list[int] = []

    def body(_: Busy) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise error("outbox.db: database is locked", hint="sudo fuser -v outbox.db")

    worker = Worker("uploader", body, hung_after_s=60)

    worker.start()

    assert worker.join(5.0)
    assert len(runs) == 3
    assert "uploader: outbox.db: database is locked" in caplog.text
    assert "bug" not in caplog.text


def test_a_worker_told_to_stop_does_not_start_its_body_again() -> None:
    runs: list[int] = []

    def body(_: Busy) -> None:
        runs.append(1)
        worker.stopping()
        raise ValueError("a mistake")

    worker = Worker("reader A", body, hung_after_s=60)

    worker.start()

    assert worker.join(5.0)
    assert runs == [1]


def test_a_worker_is_healthy_at_work_at_rest_and_when_it_is_done_and_ill_when_it_hangs() -> None:
    busy_told, rest, end = threading.Event(), threading.Event(), threading.Event()

    def body(busy: Busy) -> None:
        busy(True)
        busy_told.set()
        rest.wait()
        busy(False)
        end.wait()

    worker = Worker("reader A", body, hung_after_s=0.05)
    worker.start()
    busy_told.wait()

    wait_until(lambda: not worker.is_healthy(), what="a hanging worker")
    rest.set()
    wait_until(worker.is_healthy, what="a worker at rest")
    time.sleep(0.1)
    assert worker.is_healthy()
    end.set()
    worker.join(5.0)
    assert worker.is_healthy()


def test_a_worker_that_was_never_started_has_ended() -> None:
    assert Worker("reader A", lambda _: None, hung_after_s=60).join(0.0)


def test_a_worker_that_is_busy_for_too_long_is_not_healthy() -> None:
    end = threading.Event()
    worker = Worker("reader A", lambda _: (end.wait(), None)[1], hung_after_s=0.05)
    worker.start()

    wait_until(lambda: not worker.is_healthy(), what="a worker that waits for too long")

    end.set()
    assert worker.join(5.0)
    assert worker.is_healthy()
