"""The heartbeat to a monitoring service: sent while all is well, and without effect on anything else."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.service.heartbeat_url import HeartbeatUrl, is_well
from agent.snowpipe.http import Http
from tests.support.agent_process import AgentProcess, PtyReader, reader_table
from tests.support.emulator_process import EmulatorProcess
from tests.support.scripted_server import Answer, HangUp, Scripted, ScriptedServer, Silence, always, in_turn
from tests.support.swipes import wait_until

SECRET = "5f0c1e9a-dead-4bad-8000-123456789abc"


@pytest.fixture
def http() -> Iterator[Http]:
    http = Http(ca_file=None)
    yield http
    http.close()


def heartbeat(http: Http, server: ScriptedServer, *, well: bool = True) -> HeartbeatUrl:
    url = f"{server.url}/ping/{SECRET}?door=1"
    return HeartbeatUrl(http, url, every_s=3600, is_well=lambda: well)


def test_it_is_a_get_with_nothing_in_it(http: Http) -> None:
    with ScriptedServer(always(Answer())) as server:
        heartbeat(http, server).beat()

    (seen,) = server.seen
    assert (seen.method, seen.path, seen.query) == ("GET", f"/ping/{SECRET}", {"door": "1"})
    assert seen.body == b""
    assert set(seen.headers) == {"host", "user-agent", "accept-encoding", "connection"}
    assert seen.headers["user-agent"] == "badge-agent"


def test_while_something_is_wrong_none_is_sent(http: Http) -> None:
    with ScriptedServer(always(Answer())) as server:
        heartbeat(http, server, well=False).beat()

    assert server.seen == []


@pytest.mark.parametrize("failure", [HangUp(), Answer(500), Answer(302, headers={"Location": "/elsewhere"})])
def test_a_failure_and_its_end_are_one_line_each_without_the_secret(
    http: Http, caplog: pytest.LogCaptureFixture, failure: Scripted
) -> None:
    caplog.set_level(logging.INFO)
    with ScriptedServer(in_turn(failure, failure, Answer(), Answer())) as server:
        beats = heartbeat(http, server)
        for _ in range(4):
            beats.beat()

    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert SECRET not in caplog.text
    assert "swipes are read and delivered all the same" in caplog.text


def status(changes: dict[str, Any]) -> dict[str, Any]:
    """A healthy door with changed members; a list replaces the readers."""
    healthy: dict[str, Any] = {
        "running": True,
        "outbox": {"ok": True, "set_aside": 0, "rejected": 0, "oldest_pending_seconds": None},
        "uploader": {"state": "waiting"},
        "readers": [{"state": "open", "silent": False}],
    }
    for name, value in changes.items():
        healthy[name] = value if isinstance(value, list) else healthy[name] | value
    return healthy


@pytest.mark.parametrize(
    ("changes", "well"),
    [
        ({}, True),
        ({"outbox": {"oldest_pending_seconds": 3599.0}}, True),
        ({"outbox": {"oldest_pending_seconds": 3601.0}}, False),
        ({"outbox": {"ok": False}}, False),
        ({"outbox": {"rejected": 1}}, False),
        ({"uploader": {"state": "holding"}}, False),
        ({"readers": [{"state": "open", "silent": False}, {"state": "lost", "silent": False}]}, False),
        ({"readers": [{"state": "open", "silent": True}]}, False),
    ],
)
def test_all_is_well_while_the_door_reads_and_delivers(changes: dict[str, Any], *, well: bool) -> None:
    assert is_well(status(changes)) is well


def test_an_address_that_never_answers_disturbs_neither_delivery_nor_the_stop(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader
) -> None:
    with (
        ScriptedServer(lambda _: Answer() if len(server.seen) == 1 else Silence()) as server,
        AgentProcess(
            tmp_path / "door",
            url=pipe.url,
            private_key_file=pipe.private_key_file,
            readers=[reader_table(line.device)],
            tables=f'[heartbeat]\nurl = "{server.url}/{SECRET}"\nminutes = 1',
            log_level="debug",
            but_first="import agent.service.heartbeat_url as module; module._MINUTE_S = 0.2",
        ) as agent,
    ):
        wait_until(lambda: len(server.seen) == 2, what="the second heartbeat")
        line.present(1)
        agent.wait_until_committed(1)
        code, seconds = agent.end()

    assert (code, seconds < 5) == (0, True)
    assert f"/{SECRET}" not in agent.log
    assert {seen.method for seen in server.seen} == {"GET"}
