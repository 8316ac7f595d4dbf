"""badge-agent send-sample against an emulator: three events, or what to do next."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main, send_sample
from agent.keys import keypair, secret_file
from tests.support.emulator_process import ACCOUNT, DATABASE, PIPE, SCHEMA, USER, EmulatorProcess

# What a machine that is no Linux or macOS lacks, and what a machine without a reader need not have.
NOT_EVERYWHERE = (
    "fcntl",
    "termios",
    "resource",
    "pwd",
    "grp",
    "serial",
    "sqlite3",
    "sqlite_utils",
    "systemd",
)


@pytest.fixture(scope="module")
def shared_emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatorProcess]:
    with EmulatorProcess(tmp_path_factory.mktemp("emulator"), options=["--no-limits"]) as emulator:
        yield emulator


@pytest.fixture
def emulator(shared_emulator: EmulatorProcess) -> Iterator[EmulatorProcess]:
    yield shared_emulator
    shared_emulator.fault("clear")


@pytest.fixture
def config(emulator: EmulatorProcess, tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(
        f"""
        [agent]
        id = "{tmp_path.name[:40]}"
        [[readers]]
        id = "RDR-101"
        zone_id = "ZONE-LOBBY-1"
        port = "/dev/ttyUSB0"
        protocol = "rdm6300"
        [snowflake]
        account = "{ACCOUNT}"
        user = "{USER}"
        role = "SFE_INGEST_ROLE"
        database = "{DATABASE}"
        schema = "{SCHEMA}"
        pipe = "{PIPE}"
        private_key_file = "{emulator.private_key_file}"
        url = "{emulator.url}"
        """
    )
    return path


def sent(emulator: EmulatorProcess, config: Path) -> list[dict[str, Any]]:
    channel = f"{config.parent.name[:40]}-sample"
    return [row for row in emulator.rows() if row["channel_name"] == channel]


def test_three_events_are_in_the_table_when_it_ends(
    emulator: EmulatorProcess, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["send-sample", "--config", str(config)])

    out, err = capsys.readouterr()
    assert (code, err) == (0, "")
    assert [line for line in out.splitlines() if "HTTP" in line] == [
        "ok       BADGE-001 -> ZONE-LOBBY-1: HTTP 200",
        "ok       BADGE-002 -> ZONE-OFFICE-A: HTTP 200",
        "ok       BADGE-001 -> ZONE-OFFICE-A: HTTP 200",
    ]
    assert "3 of 3 events accepted, committed" in out
    assert "no row there: the pipe does not fill every column; badge-agent sql --only replace-pipe" in out
    rows = sent(emulator, config)
    assert [(row["badge_id"], row["zone_id"], row["signal_strength"]) for row in rows] == [
        ("BADGE-001", "ZONE-LOBBY-1", -65.5),
        ("BADGE-002", "ZONE-OFFICE-A", -58.2),
        ("BADGE-001", "ZONE-OFFICE-A", -62.1),
    ]
    assert {row["seq"] for row in rows} == {None}


def test_it_can_be_sent_again_and_counts_anew(
    emulator: EmulatorProcess, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = [main(["send-sample", "--json", "--config", str(config)]) for _ in range(2)]

    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert codes == [0, 0]
    assert [answer["committed"] for answer in answers] == [True, True]
    assert {event["status"] for answer in answers for event in answer["events"]} == {200}
    assert len({row["event_id"] for row in sent(emulator, config)}) == 6


def test_what_is_down_for_a_moment_is_asked_again(
    emulator: EmulatorProcess, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.fault("status", on="append", status=503, times=1, retry_after=0.01)

    code = main(["send-sample", "--config", str(config)])

    assert code == 0
    assert "3 of 3" in capsys.readouterr().out
    assert len(sent(emulator, config)) == 3


def test_nobody_is_kept_waiting_for_minutes(
    emulator: EmulatorProcess, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.fault("status", on="append", status=503, retry_after=600)

    code = main(["send-sample", "--config", str(config)])

    assert code == 69
    assert "failed   BADGE-001 -> ZONE-LOBBY-1: HTTP 503" in capsys.readouterr().out


def test_a_commit_that_does_not_come_is_said_not_to_have_come(
    emulator: EmulatorProcess,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(send_sample, "_COMMIT_S", 0.1)
    emulator.fault("stall_commits")

    code = main(["send-sample", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == 1
    assert "3 of 3 events accepted, not known to be committed" in out
    assert f"SYSTEM$PIPE_STATUS('{DATABASE}.{SCHEMA}.{PIPE}')" in err


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ({"do": "revoke_key"}, (77, f"DESC USER {USER}; its RSA_PUBLIC_KEY_FP or")),
        (
            {"do": "status", "on": "open", "status": 403},
            (77, "SHOW GRANTS TO ROLE SFE_INGEST_ROLE; badge-agent sql --only access"),
        ),
        (
            {"do": "status", "on": "open", "status": 404},
            (69, f"SHOW PIPES IN SCHEMA {DATABASE}.{SCHEMA}; badge-agent sql --only setup"),
        ),
        ({"do": "status", "on": "hostname", "status": 404}, (69, "is [snowflake] account right?")),
        (
            {"do": "status", "on": "open", "status": 503, "retry_after": 0.01},
            (69, "badge-agent check shows which"),
        ),
        ({"do": "refuse"}, (69, "check the connection: curl -sS http://127.0.0.1:")),
        ({"do": "drop_before", "on": "append"}, (69, "check the connection:")),
        ({"do": "status", "on": "append", "status": 400}, (69, "badge-agent check shows which")),
        ({"do": "reject_rows", "rows": 1}, (1, "the view V_CHANNEL_ERRORS has them")),
    ],
)
def test_a_failure_says_what_to_do_next(
    emulator: EmulatorProcess,
    config: Path,
    capsys: pytest.CaptureFixture[str],
    fault: dict[str, Any],
    expected: tuple[int, str],
) -> None:
    emulator.fault("expire_tokens")
    emulator.fault(**fault)

    code = main(["send-sample", "--config", str(config)])

    out, err = capsys.readouterr()
    assert code == expected[0]
    assert expected[1] in err
    assert "not known to be committed" in out


def test_the_status_of_a_refused_event_is_told(
    emulator: EmulatorProcess, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.fault("refuse_rows", field="badge_id", value="BADGE-002")

    code = main(["send-sample", "--config", str(config)])

    out = capsys.readouterr().out
    assert code == 69
    assert (
        "ok       BADGE-001 -> ZONE-LOBBY-1: HTTP 200\nfailed   BADGE-002 -> ZONE-OFFICE-A: HTTP 400" in out
    )
    assert "1 of 3 events accepted" in out


def test_it_runs_where_there_are_no_serial_ports_and_no_file_locks(
    emulator: EmulatorProcess, config: Path
) -> None:
    # None in sys.modules is how Python says that a module is not there.
    program = (
        f"import sys\nfor name in {NOT_EVERYWHERE}: sys.modules[name] = None\n"
        "from agent.cli import main; sys.exit(main(sys.argv[1:]))"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program, "send-sample", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(sent(emulator, config)) == 3


def test_file_modes_count_only_where_there_are_some(
    rsa_key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rsa_key.p8"
    path.write_bytes(rsa_key_file.read_bytes())
    path.chmod(0o666)
    monkeypatch.setattr(secret_file, "_HAS_FILE_MODES", False)

    key = keypair.load_private_key(path)

    assert key.bits == 2048
