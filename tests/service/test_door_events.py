"""Door events and heartbeats of a real agent, in the table and the views of a real emulator."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from agent import __version__
from agent.cli.verify import command
from agent.emulator.views import read_views
from agent.outbox import Outbox
from tests.support.agent_process import AGENT_ID, AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess, make_key, public_pem
from tests.support.events import follow_each_other, stored_events
from tests.support.swipes import wait_until

EVENTS = "RAW_DOOR_EVENTS"


def events(pipe: EmulatorProcess) -> list[dict[str, Any]]:
    """What happened, without heartbeats; whether the clock is synchronised depends on the machine."""
    return [row for row in pipe.rows(EVENTS) if row["kind"] not in {"heartbeat", "clock"}]


def kinds(pipe: EmulatorProcess) -> list[str]:
    return [row["kind"] for row in events(pipe)]


def view(pipe: EmulatorProcess, name: str) -> list[dict[str, Any]]:
    found = next(one for one in read_views(pipe.state_dir / "snowflake.db") if one.view.name == name)
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def fleet(pipe: EmulatorProcess) -> dict[str, str]:
    return {row["agent_id"]: row["status"] for row in view(pipe, "V_FLEET")}


def verified(pipe: EmulatorProcess, directory: Path) -> list[str]:
    """What `verify` finds whole in the two tables."""
    export, key_file = directory / "export.ndjson", directory / "door.pub"
    rows = [*pipe.rows(), *pipe.rows(EVENTS)]
    export.write_text("".join(json.dumps(row) + "\n" for row in rows))
    key_file.write_bytes(public_pem(make_key()))
    result = CliRunner().invoke(
        command, [str(export), "--public-key", str(key_file), "--json"], standalone_mode=False
    )
    assert result.exception is None
    return [one["kind"] for one in json.loads(result.output) if one["problem"] is None]


def test_what_happens_to_a_door_arrives_once_and_its_heartbeats_show_its_state(
    pipe: EmulatorProcess, line: PtyReader, tmp_path: Path
) -> None:
    agent = AgentProcess(
        tmp_path / "agent",
        url=pipe.url,
        private_key_file=pipe.private_key_file,
        readers=[reader_table(line.device)],
        heartbeat_minutes=0.02,
    )
    with agent:
        wait_until(lambda: fleet(pipe).get(AGENT_ID) == "OK", what="a heartbeat")
        line.unplug()
        wait_until(lambda: fleet(pipe)[AGENT_ID] == "READER LOST", what="a heartbeat without the reader")
        line.plug_in()
        wait_until(lambda: fleet(pipe)[AGENT_ID] == "OK", what="a heartbeat with the reader")
        line.present(7)
        agent.wait_until_committed(1)
        agent.kill()
        with closing(Outbox(agent.state_dir, agent_id=AGENT_ID)) as outbox:
            outbox.door_events.note_start("0.0.9")
        agent.start()
        wait_until(lambda: kinds(pipe).count("start") == 2, what="the second start")
        wait_until(lambda: view(pipe, "V_ANCHORS")[-1]["seq"] == 1, what="an anchor after the swipe")
        agent.end()

    rows = events(pipe)
    (swipe,) = pipe.rows()
    assert kinds(pipe) == ["start", "reader_lost", "reader_back", "upgrade", "start"]
    assert [row["severity"] for row in rows] == ["info", "warning", "info", "info", "warning"]
    assert "ended without a stop" in rows[-1]["message"]
    assert rows[-2]["message"] == f"badge-agent 0.0.9 was replaced by {__version__}"
    assert [row["reader_id"] for row in rows] == [None, "RDR-101", "RDR-101", None, None]
    numbered = [json.loads(row["raw_json"]) for row in pipe.rows(EVENTS) if row["seq"] is not None]
    assert [row["seq"] for row in numbered] == list(range(1, len(numbered) + 1))
    assert follow_each_other(numbered, rows[0]["outbox_id"])
    assert view(pipe, "V_ANCHORS")[-1]["chain"] == swipe["chain"]
    assert view(pipe, "V_DOOR_CHAIN") == []
    assert verified(pipe, tmp_path) == ["swipes", "door events"]
    stop = stored_events(agent.state_dir)[-1]
    assert (stop["kind"], stop["details"]["reason"]) == ("stop", "SIGTERM")
