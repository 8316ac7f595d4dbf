"""Commands that change or reveal something leave a door event with who ran them."""

from __future__ import annotations

import json
import os
import pwd
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.outbox import EventRows, NoHeartbeats
from tests.support.events import follow_each_other, stored_events
from tests.support.outbox_rig import commit, keep, opened, set_aside
from tests.support.paths import ROOT

EXAMPLE = ROOT / "config.example.toml"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The configuration of a stopped agent with two entries in `outbox list`."""
    monkeypatch.setenv("SUDO_USER", "anna\n\x1b")
    state_dir = tmp_path / "state"
    state_dir.mkdir(mode=0o700)
    with closing(opened(state_dir)) as outbox:
        keep(outbox, 9)
        set_aside(outbox, 8)
        commit(outbox, 7, rejected=(2, 4))
    path = tmp_path / "config.toml"
    text = EXAMPLE.read_text().replace("/var/lib/badge-agent", "state").replace("/run/badge-agent", "run")
    path.write_text(text)
    return path


def actions(config: Path) -> list[tuple[str, str, str]]:
    rows = stored_events(config.parent / "state")
    return [(row["kind"], row["actor"], row["message"]) for row in rows]


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["outbox", "show", "2"], "outbox_show", "read 3 rows of entry 2"),
        (["outbox", "export"], "outbox_export", "read 4 rows of every entry"),
        (["outbox", "export", "1", "--out", "held.ndjson"], "outbox_export", "read 1 rows of entry 1"),
        (["outbox", "release", "1", "2"], "outbox_release", "released entries 1, 2"),
        (["outbox", "release", "--all"], "outbox_release", "released every entry"),
        (["replay", "--rejected", "--dry-run"], "replay_dry_run", "read 3 rejected rows"),
    ],
)
def test_a_command_is_recorded_with_who_ran_it(
    config: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], kind: str, message: str
) -> None:
    monkeypatch.chdir(config.parent)

    assert main([*words, "--config", str(config)]) == 0

    assert actions(config) == [(kind, "anna", message)]


@pytest.mark.parametrize("words", [["outbox", "list"], ["outbox", "show", "99"], ["outbox", "release", "99"]])
def test_a_command_that_neither_changes_nor_reveals_a_row_is_not_recorded(
    config: Path, words: list[str]
) -> None:
    main([*words, "--config", str(config)])

    assert actions(config) == []


def test_without_sudo_the_actor_is_who_logged_in(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER")
    login_uid = int(Path("/proc/self/loginuid").read_text())
    user = pwd.getpwuid(os.getuid() if login_uid == 2**32 - 1 else login_uid).pw_name

    main(["outbox", "show", "1", "--config", str(config)])

    assert actions(config)[0][1] == user


def test_rows_are_shown_also_where_the_outbox_takes_no_writes(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outbox = opened(config.parent / "state")
    monkeypatch.setattr("agent.outbox.database._BUSY_S", 0.1)
    with closing(outbox), outbox.writing():
        code = main(["outbox", "show", "2", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 0
    assert len(out.splitlines()) == 3
    assert "warning: this command is not recorded as a door event" in err


def test_the_agent_sends_what_a_command_has_recorded(config: Path) -> None:
    main(["outbox", "show", "2", "--config", str(config)])
    main(["outbox", "release", "2", "--config", str(config)])

    with closing(opened(config.parent / "state")) as outbox:
        source = EventRows(outbox, "EVENTS", NoHeartbeats())
        source.record_channel(0)
        assert source.needs_channel()
        batch = source.after(source.committed, 100, max_bytes=10**6)
        assert batch is not None
        rows: list[dict[str, Any]] = [json.loads(row) for row in batch.rows]

        assert follow_each_other(rows, outbox.outbox_id)
    assert [(row["kind"], row["actor"], row["seq"]) for row in rows] == [
        ("outbox_show", "anna", 1),
        ("outbox_release", "anna", 2),
    ]
