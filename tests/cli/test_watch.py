from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from contextlib import closing
from typing import Any

import pytest

from agent.cli import main
from agent.cli.changes import Changes
from agent.cli.door_view import look_at, masked, plain, view_of
from agent.clock.system_clock import SystemClock
from agent.config.loader import load
from agent.outbox import Outbox
from tests.support.cli_rig import AGENT_ID, FRAME, CliRig
from tests.support.emulator_process import EmulatorProcess
from tests.support.outbox_rig import commit
from tests.support.swipes import swipe, wait_until
from tests.support.terminal import Terminal

CARD = "40:010063E9AE"  # the badge id of FRAME
MASKED = "...AE"


def lines_of(changes: Changes, change: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, changes.look()) if line["change"] == change]


def test_a_swipe_goes_from_the_disk_to_snowflake_on_the_screen_and_q_ends_it(
    door: CliRig, emulator: EmulatorProcess
) -> None:
    with door.running_agent():
        words = [sys.executable, "-m", "agent", "watch", "--config", str(door.config)]
        with Terminal(words, environment={**os.environ, "TERM": "xterm-256color"}) as terminal:
            terminal.expect("nothing pending")
            terminal.expect("RDR-101")
            emulator.fault("refuse")
            os.write(door.master, FRAME)
            terminal.expect(MASKED)
            terminal.expect("on disk")
            terminal.expect("Connection refused")
            emulator.fault("clear")
            terminal.expect("in Snowflake")
            terminal.type("q")
            code = terminal.ended()

    assert code == 0
    assert "010063E9AE" not in terminal.screen
    assert terminal.screen.endswith("\x1b[?1049l")  # the terminal has its own screen again


def test_json_is_one_line_for_each_change(door: CliRig, emulator: EmulatorProcess) -> None:
    words = [sys.executable, "-m", "agent", "watch", "--json", "--show-cards", "--config", str(door.config)]
    with door.running_agent(), subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        first = [json.loads(watch.stdout.readline()) for _ in range(5)]
        emulator.fault("refuse")
        os.write(door.master, FRAME)
        on_disk = json.loads(watch.stdout.readline())
        emulator.fault("clear")
        wait_until(lambda: door.status()["outbox"]["pending"] == 0, what="the commit of the swipe")
        wait_until(
            lambda: "show_cards" in {event["kind"] for event in emulator.rows("RAW_DOOR_EVENTS")},
            what="the record of who saw badge ids",
        )
        watch.terminate()
        rest = [json.loads(line) for line in watch.stdout]

    assert [line["change"] for line in first] == ["agent", "outbox", "uploader", "clock", "reader"]
    assert first[0]["running"] is True
    assert (on_disk["change"], on_disk["badge_id"], on_disk["is"]) == ("swipe", CARD, "on disk")
    assert {line["change"] for line in rest} <= {"swipe", "uploader"}
    assert watch.returncode == 0


def test_every_swipe_after_the_first_look_is_reported_once_for_each_place(door: CliRig) -> None:
    now = SystemClock("always").now()
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)) as outbox:
        outbox.keep(swipe(1, read_at=now))
        changes = Changes(load(door.config), masked)

        before = lines_of(changes, "swipe")
        outbox.keep(*(swipe(value, read_at=now) for value in (2, 3, 4)))
        stored = lines_of(changes, "swipe")
        outbox.set_aside(3, "refused")
        commit(outbox, 4)
        outbox.keep(swipe(5, read_at=now))
        committed = lines_of(changes, "swipe")
        later = list(changes.look())

    assert before == []
    assert [(line["n"], line["is"]) for line in stored] == [(2, "on disk"), (3, "on disk"), (4, "on disk")]
    assert [(line["n"], line["is"]) for line in committed] == [
        *((1, "in Snowflake"), (2, "in Snowflake"), (3, "set aside"), (4, "in Snowflake"), (5, "on disk")),
    ]
    assert later == []


def test_a_new_outbox_file_is_watched_from_its_beginning_on(door: CliRig) -> None:
    now = SystemClock("always").now()
    changes = Changes(load(door.config), masked)
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)) as outbox:
        outbox.keep(swipe(1, read_at=now), swipe(2, read_at=now))
        changes_before = lines_of(changes, "outbox")
    (door.state_dir / "outbox.db").unlink()
    missing = lines_of(changes, "outbox")
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)) as outbox:
        list(changes.look())
        outbox.keep(swipe(3, read_at=now))
        swipes = lines_of(changes, "swipe")

    assert len(changes_before) == 1
    assert missing[0]["problem"].startswith("no outbox in ")
    assert [line["n"] for line in swipes] == [1]


def test_a_row_that_was_damaged_on_the_disk_is_left_out(door: CliRig) -> None:
    now = SystemClock("always").now()
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)) as outbox:
        outbox.keep(*(swipe(value, read_at=now) for value in (1, 2, 3)))
        with outbox.writing() as connection:
            connection.execute("UPDATE swipes SET row = CAST(replace(row, 'RDR', 'RDX') AS BLOB) WHERE n = 2")

        look = look_at(load(door.config))

    assert [kept.n for kept in look.swipes] == [3, 1]


def test_the_view_of_a_stopped_agent_shows_what_its_outbox_has(door: CliRig) -> None:
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)) as outbox:
        outbox.keep(swipe(1, read_at=SystemClock("always").now()))
    settings = load(door.config)

    look = look_at(settings)
    view = view_of(look, settings, card=plain, about="")

    (swipes,) = view.grids
    badge_id = look.swipes[0].row.badge_id
    assert view.findings[0].text == "not running"
    assert badge_id in swipes.rows[0]
    assert str(badge_id) not in repr(look)


def test_nothing_of_a_door_reaches_the_terminal_as_a_control_character(door: CliRig) -> None:
    odd = "\x1b]0;owned\x07\x9b2J"
    read = dataclasses.replace(swipe(1, read_at=SystemClock("always").now()), zone_id=odd, badge_id=odd)
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)) as outbox:
        outbox.keep(read)
        door.runtime_dir.mkdir()
        reader = {"id": odd, "last_rx_seconds": None, "problems": [{"text": odd, "next": odd}]}
        report = {"boot_s": 0.0, "version": odd, "uploader": {"next_try_seconds": 0.0}, "readers": [reader]}
        (door.runtime_dir / "status.json").write_text(json.dumps(report))

        look = look_at(load(door.config))

    assert look.status["readers"][0]["problems"][0]["text"] == "?]0;owned??2J"
    assert look.status["version"] == "?]0;owned??2J"
    assert (look.swipes[0].row.zone_id, look.swipes[0].row.badge_id) == ("?]0;owned??2J", "?]0;owned??2J")


@pytest.mark.parametrize(
    ("badge_id", "shown"), [("40:010063E9AE", "...AE"), ("123456", "...56"), ("1-234", "..."), ("", "...")]
)
def test_two_characters_of_a_badge_id_can_be_read_at_most(badge_id: str, shown: str) -> None:
    assert masked(badge_id) == shown


def test_without_a_terminal_it_says_what_a_program_uses(
    door: CliRig, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["watch", "--config", str(door.config)])

    assert code == 2
    assert "standard output is no terminal; for a program: --json" in capsys.readouterr().err
