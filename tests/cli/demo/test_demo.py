from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.cli.demo import Landed, compare
from agent.cli.demo.processes import Stage
from agent.cli.demo.readers import card
from agent.errors import AgentError
from agent.readers.cards.badge_id import badge_id
from agent.readers.cards.decoder import decode
from agent.readers.events import RawCredential
from agent.readers.protocols import PROTOCOLS
from agent.settings import DEFAULT_FORMATS
from agent.swipe import CardRead


def demo(directory: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "agent", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(directory), "PYTHONUNBUFFERED": "1"},
    )


def processes_of(directory: Path) -> list[str]:
    """The command lines that name a file under `directory`."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            found += [command] if str(directory) in command else []
    return found


def test_an_outage_costs_no_swipe_and_nothing_is_left_behind(tmp_path: Path) -> None:
    with demo(tmp_path, "--swipes", "3", "--outage") as process:
        out, _ = process.communicate()

    assert process.returncode == 0, out
    assert re.search(r"^ok +token: JWT signed, valid until \d{4}-\d\d-\d\dT", out, re.MULTILINE)
    assert len(re.findall(r"-> ZONE-\S+ +(?:ENTRY|EXIT) +HTTP 200 after \d+ ms$", out, re.MULTILINE)) == 3
    assert "on disk, 3 waiting" in out
    assert out.count("Committed: 3 of 3") == 2
    assert re.search(r"^swiped +landed +doubled +lost +seconds\n6 +6 +0 +0 ", out, re.MULTILINE)
    assert "V_DOOR_CHAIN\n(no rows: every hash chain is intact)" in out
    assert "ALTER USER SFE_INGEST_USER SET RSA_PUBLIC_KEY=" in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_it_puts_everything_away(tmp_path: Path, number: signal.Signals) -> None:
    with demo(tmp_path, "--swipes", "1000") as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "HTTP 200" in line:
                break
        process.send_signal(number)
        out, _ = process.communicate()

    assert process.returncode == 130
    assert out.endswith("interrupted\n")
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_what_is_kept_can_be_looked_at_as_it_says(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept"

    code = main(["demo", "--swipes", "1", "--keep", str(kept)])

    assert code == 0
    database = kept / "pipe" / "snowflake.db"
    assert f"sqlite-utils rows {database} RAW_BADGE_EVENTS" in capfd.readouterr().out
    answer = subprocess.run(
        [sys.executable, "-m", "sqlite_utils", "rows", str(database), "RAW_BADGE_EVENTS"],
        capture_output=True,
        check=True,
    )
    (row,) = json.loads(answer.stdout)
    assert (row["badge_id"], row["user_id"]) == (card(0).badge_id, card(0).user_id)
    main(["status", "--json", "--config", str(kept / "config.toml")])
    assert json.loads(capfd.readouterr().out)["outbox"]["committed_seq"] == 1


def test_a_directory_with_something_in_it_is_not_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()

    code = main(["demo", "--keep", str(tmp_path)])

    assert code == 2
    assert "not empty" in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["mine"]


def rows_of(*numbers: int) -> list[dict[str, Any]]:
    return [{"event_id": number, "badge_id": card(number).badge_id} for number in numbers]


@pytest.mark.parametrize(
    ("rows", "landed"),
    [
        (rows_of(0, 1, 2), Landed(lost=0, doubled=0, as_swiped=True)),
        (rows_of(0, 2), Landed(lost=1, doubled=0, as_swiped=False)),
        (rows_of(0, 1, 1, 2), Landed(lost=0, doubled=1, as_swiped=False)),
        (rows_of(0, 0, 2), Landed(lost=1, doubled=1, as_swiped=False)),
        (rows_of(0, 2, 1), Landed(lost=0, doubled=0, as_swiped=False)),
        ([], Landed(lost=3, doubled=0, as_swiped=False)),
    ],
)
def test_lost_doubled_and_disordered_rows_are_told_apart(rows: list[dict[str, Any]], landed: Landed) -> None:
    assert compare(rows, [card(0), card(1), card(2)]) == landed


def test_a_row_that_is_lost_ends_it_with_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = Stage.query

    def without_the_last(stage: Stage, sql: str) -> list[dict[str, Any]]:
        rows = honest(stage, sql)
        return rows[:-1] if "RAW_BADGE_EVENTS" in sql else rows

    monkeypatch.setattr(Stage, "query", without_the_last)

    code = main(["demo", "--swipes", "2"])

    assert code == 1
    assert "1 lost, 0 doubled" in capsys.readouterr().err


def test_without_its_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)

    code = main(["demo"])

    assert code == 78
    assert capsys.readouterr().err.splitlines() == [
        "error: the demo needs libraries that are not installed: aiohttp, orjson",
        "  next: pip install 'badge-agent[emulator]', or: sudo apt install python3-aiohttp python3-orjson",
    ]


def test_a_child_that_ends_early_is_told_with_its_own_words(tmp_path: Path) -> None:
    said = r"badge-agent emulator ended with 78: .*rsa_key\.pub"  # there is no key yet

    with closing(Stage(tmp_path)) as stage, pytest.raises(AgentError, match=said):
        stage.start_pipe()


def test_waiting_in_vain_has_an_end(tmp_path: Path) -> None:
    with closing(Stage(tmp_path)) as stage, pytest.raises(AgentError, match="waiting for a miracle"):
        stage.wait_for("a miracle", lambda: None, 0.0)


def test_the_agent_that_died_is_named_while_waiting(tmp_path: Path) -> None:
    with closing(Stage(tmp_path)) as stage:
        stage.url = "ftp://nowhere"

        with pytest.raises(AgentError, match="badge-agent run ended with 78"):
            stage.start_agent(1)


@given(st.integers(0, 999))
def test_the_agent_calls_each_card_as_the_demo_says(number: int) -> None:
    shown = card(number)

    (frame,) = PROTOCOLS[shown.reader.protocol]().receive_data(shown.frame, 0.0)

    assert isinstance(frame, RawCredential)
    read = decode(frame, DEFAULT_FORMATS)
    assert isinstance(read, CardRead)
    assert badge_id("{facility_code}-{card_number}", read) == shown.badge_id


def test_no_two_cards_are_alike() -> None:
    assert len({card(number).badge_id for number in range(2000)}) == 2000
