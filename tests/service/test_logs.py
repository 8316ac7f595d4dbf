from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from agent.service import logs


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, agent = logging.getLogger(), logging.getLogger("agent")
    before = root.handlers[:], root.level, agent.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    agent.setLevel(before[2])


def test_a_terminal_shows_time_level_and_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    logs.set_up("info")

    logging.getLogger("agent.readers.session").info("reader %s: open", "RDR-101")

    assert capsys.readouterr().err.endswith("INFO    reader RDR-101: open\n")


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (logging.CRITICAL, 2)],
)
def test_the_journal_gets_every_line_with_its_priority(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, level: int, number: int
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "8:1234")
    logs.set_up("debug")

    logging.getLogger("agent").log(level, "first\nsecond")

    assert capsys.readouterr().err == f"<{number}>first\n<{number}>second\n"


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 1), ("warning", 0)])
def test_the_level_is_the_configured_one(capsys: pytest.CaptureFixture[str], level: str, lines: int) -> None:
    logs.set_up(level)

    logging.getLogger("agent.uploader").debug("fine")
    logging.getLogger("agent.uploader").info("coarse")

    assert len(capsys.readouterr().err.splitlines()) == lines


def test_foreign_libraries_say_nothing_below_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug")

    logging.getLogger("urllib3.connectionpool").debug("Authorization: Bearer secret")

    assert capsys.readouterr().err == ""
