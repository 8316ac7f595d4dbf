from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.clock.timedated import Timedated
from tests.support.programs import install
from tests.support.swipes import DrivenClock, wait_until


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory whose programs come before the machine's own."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    return tmp_path / "bin"


def test_systemd_is_asked_whether_the_clock_is_synchronised(programs: Path) -> None:
    install(programs, "timedatectl", '[ "$*" = "show --property=NTPSynchronized --value" ] && echo yes\n')

    assert Timedated(DrivenClock().monotonic_s).ask(0)


@pytest.mark.parametrize("answer", ["echo no", "echo yes; exit 1", "true"])
def test_anything_but_a_yes_is_a_no(programs: Path, answer: str) -> None:
    install(programs, "timedatectl", f"{answer}\n")

    assert not Timedated(DrivenClock().monotonic_s).ask(0)


def test_where_there_is_no_systemd_the_answer_is_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert not Timedated(DrivenClock().monotonic_s).ask(0)


def test_a_swipe_never_waits_for_the_answer_and_has_it_the_next_time(programs: Path) -> None:
    install(programs, "timedatectl", "sleep 0.2; echo yes\n")
    timedated = Timedated(DrivenClock().monotonic_s)

    assert timedated.max_error_us(0) is None

    wait_until(lambda: timedated.max_error_us(0) is not None, what="the answer")


def test_it_is_asked_once_a_minute_however_many_swipes_come(programs: Path) -> None:
    asked = programs / "asked"
    install(programs, "timedatectl", f"echo . >>{asked}; echo yes\n")
    clock = DrivenClock()
    timedated = Timedated(clock.monotonic_s)

    for second in range(61):
        clock.seconds = 1_000.0 + second
        timedated.max_error_us(0)
        wait_until(lambda: timedated.max_error_us(0) is not None, what="the answer")

    wait_until(lambda: asked.read_text().count(".") == 2, what="the second question")


def test_a_yes_that_is_not_renewed_ends(programs: Path) -> None:
    install(programs, "timedatectl", "echo yes\n")
    clock = DrivenClock()
    timedated = Timedated(clock.monotonic_s)
    wait_until(lambda: timedated.max_error_us(0) is not None, what="the answer")

    install(programs, "timedatectl", "exit 1\n")
    clock.seconds += 301

    assert timedated.max_error_us(0) is None


def test_a_yes_from_before_the_clock_was_set_says_nothing(programs: Path) -> None:
    install(programs, "timedatectl", "echo yes\n")
    clock = DrivenClock()
    timedated = Timedated(clock.monotonic_s)
    wait_until(lambda: timedated.max_error_us(0) is not None, what="the answer")

    assert timedated.max_error_us(3_600_000_000) is None
    assert timedated.max_error_us(1_000) is not None

    clock.seconds += 61
    wait_until(lambda: timedated.max_error_us(3_600_000_000) is not None, what="the answer to a new question")


def test_an_answer_that_another_thread_withdraws_meanwhile_is_used_whole(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(programs, "timedatectl", "echo yes\n")
    clock = DrivenClock()
    timedated = Timedated(clock.monotonic_s)
    wait_until(lambda: timedated.max_error_us(0) is not None, what="the answer")
    answers = iter([timedated._answer, None])
    withdrawn = property(lambda _: next(answers), lambda _, __: None)
    monkeypatch.setattr(Timedated, "_answer", withdrawn, raising=False)

    assert timedated.max_error_us(0) == 500_000


def test_a_yes_proves_a_correction_after_the_latest_no_or_the_begin_of_the_boot(programs: Path) -> None:
    clock = DrivenClock()
    timedated = Timedated(clock.monotonic_s)
    found = []
    for seconds, word in (
        (1_000.0, "yes"),
        (2_000.0, "no"),
        (2_060.0, "yes"),
        (2_120.0, "yes"),
        (9_000_000.0, "yes"),
    ):
        install(programs, "timedatectl", f"echo {word}\n")
        clock.seconds = seconds
        timedated._due_at = seconds + 60  # asked here, and by no thread
        assert timedated.ask(0) is (word == "yes")
        found.append(timedated.max_error_us(0))

    assert found == [500_000, None, 30_000, 60_000, 16_000_000]
    clock.seconds += 10
    assert timedated.max_error_us(0) == 16_005_000
