from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

import pytest

from agent.log import journal


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root, agent = logging.getLogger(), logging.getLogger("agent")
    before = root.handlers[:], root.level, agent.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    agent.setLevel(before[2])


def written(capfd: pytest.CaptureFixture[str]) -> str:
    journal.flush()
    return capfd.readouterr().err


@pytest.mark.parametrize("stream", [None, "8:1234", "of another file"])
def test_a_terminal_shows_time_level_and_message(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    stderr = os.fstat(sys.stderr.fileno())
    told = {None: "", "of another file": f"{stderr.st_dev}:{stderr.st_ino + 1}"}.get(stream, stream)
    monkeypatch.setenv("JOURNAL_STREAM", told or "")
    journal.set_up("info")

    logging.getLogger("agent.readers.session").info("reader %s: open", "RDR-101")

    assert written(capfd).endswith("INFO    reader RDR-101: open\n")


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 1), ("warning", 0)])
def test_the_level_is_the_configured_one(capfd: pytest.CaptureFixture[str], level: str, lines: int) -> None:
    journal.set_up(level)

    logging.getLogger("agent.uploader.uploader").debug("fine")
    logging.getLogger("agent.uploader.uploader").info("coarse")

    assert len(written(capfd).splitlines()) == lines


def test_foreign_libraries_say_nothing_below_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    journal.set_up("debug")

    logging.getLogger("urllib3.connectionpool").debug("Authorization: Bearer secret")

    assert written(capfd) == ""
