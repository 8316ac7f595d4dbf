"""The views as tables, over what an emulator's file holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.demo.views import show_views
from agent.errors import AgentError
from tests.sql.doors import door_rows
from tests.sql.engines import EmulatorFile


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, list[str]]:
    """The lines under each view's name."""
    blocks = capsys.readouterr().out.strip().split("\n\n")
    return {lines[0]: lines[1:] for lines in (block.splitlines() for block in blocks)}


@pytest.fixture
def file(tmp_path: Path) -> EmulatorFile:
    file = EmulatorFile(tmp_path / "emulator")
    file.close()
    return EmulatorFile(tmp_path / "emulator")


def test_each_view_is_a_table(file: EmulatorFile, capsys: pytest.CaptureFixture[str]) -> None:
    file.load(door_rows("hq-lobby-1", [120.0, 60.0, 0.0]))

    show_views(file.path)

    file.close()
    views = shown(capsys)
    assert list(views) == [
        "V_BADGE_EVENTS",
        "V_INGESTION_METRICS",
        "V_ANCHORS",
        "V_DOOR_GAPS",
        "V_DOOR_CHAIN",
        "V_DOOR_STATUS",
        "V_END_TO_END_LATENCY",
        "V_FLEET",
        "V_OPERATOR_ACTIONS",
    ]
    assert views["V_BADGE_EVENTS"][0].split() == [
        *("seq", "event_timestamp", "badge_id", "user_id", "zone_id", "direction")
    ]
    assert [line.split()[0] for line in views["V_BADGE_EVENTS"][1:]] == ["3", "2", "1"]
    assert "event_count           3" in views["V_INGESTION_METRICS"]
    assert views["V_DOOR_GAPS"] == ["(no rows: no sequence number is missing)"]
    assert views["V_DOOR_CHAIN"] == ["(no rows: every hash chain is intact)"]
    assert any("hq-lobby-1" in line for line in views["V_DOOR_STATUS"])


def test_of_many_events_the_newest_are_shown(file: EmulatorFile, capsys: pytest.CaptureFixture[str]) -> None:
    file.load(door_rows("hq-lobby-1", [float(ago) for ago in range(25, 0, -1)]))

    show_views(file.path)

    file.close()
    events = shown(capsys)["V_BADGE_EVENTS, 10 of 25 rows"]
    assert [line.split()[0] for line in events[1:]] == [str(seq) for seq in range(25, 15, -1)]


def test_what_went_wrong_is_shown(file: EmulatorFile, capsys: pytest.CaptureFixture[str]) -> None:
    lines = door_rows("hq-lobby-1", [4.0, 3.0, 2.0, 1.0])
    file.load([lines[0], lines[3]])

    show_views(file.path)

    file.close()
    views = shown(capsys)
    assert any("hq-lobby-1" in line for line in views["V_DOOR_GAPS"])
    assert any("row before is missing" in line for line in views["V_DOOR_CHAIN"])


@pytest.mark.parametrize("content", [None, b"no database"])
def test_a_file_that_is_no_emulators_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "snowflake.db"
    if content is not None:
        path.write_bytes(content * 100)

    with pytest.raises(AgentError, match=r"snowflake\.db: the views cannot be read"):
        show_views(path)
