from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.cli import main
from agent.errors import OutboxError
from agent.outbox.external import holds
from tests.support.cli_rig import CLOSED, CliRig
from tests.support.outbox_rig import commit, keep, opened, seqs
from tests.support.paths import ROOT
from tests.support.terminal import Terminal

HELD = 2_500


@pytest.fixture
def filled(tmp_path: Path, rsa_key_file: Path) -> Iterator[CliRig]:
    """A configured agent that is stopped, with held rows."""
    rig = CliRig(tmp_path, key_file=rsa_key_file, url=CLOSED)
    with closing(opened(rig.state_dir)) as outbox:
        keep(outbox, HELD)
        commit(outbox, HELD, rejected=(1, HELD))
    yield rig
    rig.close()


def export(rig: CliRig, out: Path, *more: str) -> int:
    return main(["outbox", "export", *more, "--out", str(out), "--config", str(rig.config)])


def test_every_held_row_is_in_the_file(
    filled: CliRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "rows.ndjson"

    assert export(filled, out) == 0

    assert seqs([json.loads(line) for line in out.read_bytes().splitlines()]) == list(range(1, HELD + 1))
    assert capsys.readouterr().out == f"rows exported: {HELD} of {HELD}\nwritten to {out}\n"


def test_a_terminal_shows_a_progress_bar(filled: CliRig, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "agent", "outbox", "export", "--out", str(tmp_path / "rows")]

    with Terminal([*command, "--config", str(filled.config)]) as terminal:
        assert terminal.ended() == 0

    assert "rows exported" in terminal.screen
    assert "100%" in terminal.screen


def test_others_can_read_the_file_at_no_moment(
    filled: CliRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, modes = tmp_path / "rows", set[int]()
    read = holds.held_rows

    def watched(state_dir: Path, hold_id: int | None) -> Iterator[bytes]:
        for row in read(state_dir, hold_id):
            modes.add(out.stat().st_mode & 0o777)
            yield row

    monkeypatch.setattr(holds, "held_rows", watched)
    umask = os.umask(0)
    try:
        assert export(filled, out) == 0
    finally:
        os.umask(umask)

    assert modes == {0o600}
    assert out.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("link", [False, True])
def test_an_existing_file_or_link_is_left_as_it_is(
    filled: CliRig, tmp_path: Path, capsys: pytest.CaptureFixture[str], *, link: bool
) -> None:
    out, target = tmp_path / "rows", tmp_path / "target"
    if link:
        out.symlink_to(target)
    else:
        out.write_text("mine")

    assert export(filled, out) == 1

    assert f"error: {out}: File exists\n  next: name a new file" in capsys.readouterr().err
    assert out.is_symlink() if link else out.read_text() == "mine"
    assert not target.exists()


def test_an_unknown_entry_makes_no_file(
    filled: CliRig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(filled, tmp_path / "rows", "99") == 1

    assert "there is no entry 99" in capsys.readouterr().err
    assert not (tmp_path / "rows").exists()


def test_a_file_that_cannot_be_completed_is_removed(filled: CliRig, tmp_path: Path) -> None:
    out = tmp_path / "rows"
    code = (
        "import resource, sys\nfrom agent.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))\nsys.exit(main(sys.argv[1:]))"
    )

    done = subprocess.run(
        [sys.executable, "-c", code, "outbox", "export", "--out", str(out), "--config", str(filled.config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr == (
        f"error: {out}: File too large; the incomplete file was removed\n"
        "  next: free some space, or name a file on another disk\n"
    )
    assert not out.exists()


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (OutboxError("no disk"), 74)])
def test_an_export_that_is_interrupted_leaves_no_file(
    filled: CliRig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    def broken(_state_dir: Path, _hold_id: int | None) -> Iterator[bytes]:
        yield b"{}"
        raise error

    monkeypatch.setattr(holds, "held_rows", broken)

    assert export(filled, tmp_path / "rows") == code
    assert not (tmp_path / "rows").exists()
