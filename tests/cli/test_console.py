from __future__ import annotations

import contextlib
import os
import pty
import sys
from collections.abc import Callable

import pytest

from agent.cli.console import Finding, console, progress, show, table

ESCAPE = "\x1b"
FAILED = Finding("key file", "failed", "readers[0]: no such file", next="badge-agent key generate")


def on_a_terminal(draw: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        draw()
    seen = b""
    # Output can be read until a read fails, because the terminal is closed.
    with contextlib.suppress(OSError):
        while chunk := os.read(ours, 65_536):
            seen += chunk
    os.close(ours)
    return seen.decode("utf-8")


def draw_progress() -> None:
    with progress(10, "draining") as advance:
        advance(4)
        advance(6)


def test_a_finding_in_a_pipe_is_a_line_to_grep_and_what_to_do_next(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    show(Finding("config", "ok", "x" * 200))
    show(FAILED)

    assert capsys.readouterr().out == (
        f"ok       config: {'x' * 200}\n"
        "failed   key file: readers[0]: no such file\n"
        "         next: badge-agent key generate\n"
    )


def test_a_table_in_a_pipe_is_one_line_per_row_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    table(("name", "bits"), [("H10301", "26"), ("C1k35s", "")])

    assert capsys.readouterr().out == "name    bits\nH10301  26\nC1k35s\n"


def test_progress_in_a_pipe_is_one_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    draw_progress()

    assert capsys.readouterr().out == "draining: 10 of 10\n"


def test_the_console_takes_text_as_it_is_and_never_colours_a_pipe(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")

    console().print("readers[0] [red]:door: " + "x" * 200, style="red")

    assert capsys.readouterr().out == "readers[0] [red]:door: " + "x" * 200 + "\n"


def test_a_terminal_gets_colours_and_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = on_a_terminal(lambda: show(FAILED), monkeypatch)

    assert ESCAPE in seen
    assert "  key file: readers[0]: no such file" in seen
    assert "next: badge-agent key generate" in seen


def test_a_terminal_gets_a_drawn_table_with_the_cells_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = on_a_terminal(lambda: table(("name",), [("[red]H10301",)]), monkeypatch)

    assert "[red]H10301" in seen
    assert "──" in seen


def test_a_terminal_gets_a_bar_that_fills(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = on_a_terminal(draw_progress, monkeypatch)

    assert "draining" in seen
    assert "100%" in seen
