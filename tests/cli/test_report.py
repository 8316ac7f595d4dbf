"""The archive for support: what is in it, and that nothing secret of a run is."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import tarfile
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.cli import main
from agent.cli.report.redaction import REMOVED, redacted
from agent.keys.keypair import new_key, pem
from agent.outbox import Outbox
from agent.readers.events import raw_hex
from tests.support import programs
from tests.support.agent_process import AgentProcess, PtyReader, bits_line, rdm6300_frame, reader_table
from tests.support.cli_rig import AGENT_ID, CliRig
from tests.support.emulator_process import EmulatorProcess
from tests.support.swipes import wait_until

PIN = "8394716205"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJBQ0NPVU5UIn0.c2lnbmF0dXJl-_"


def files_of(archive: Path) -> dict[str, str]:
    with tarfile.open(archive) as opened:
        members = {Path(member.name).name: opened.extractfile(member) for member in opened}
        return {name: file.read().decode() for name, file in members.items() if file is not None}


def manifest_of(files: dict[str, str]) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(files["manifest.json"])
    return manifest


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs that are found before those of the system."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_no_card_pin_key_or_token_of_a_run_is_in_it_also_after_the_agent_was_killed(
    tmp_path: Path, pipe: EmulatorProcess, line: PtyReader, stand_ins: Path
) -> None:
    tags = [0x11_8000_0000 | secrets.randbits(31) for _ in range(5)]  # ten digits each, in decimal as well
    with (
        PtyReader(tmp_path / "keypad") as keypad,
        AgentProcess(
            tmp_path / "door",
            url=pipe.url,
            private_key_file=pipe.private_key_file,
            readers=[
                reader_table(line.device, more='formats = ["EM4100"]'),
                reader_table(keypad.device, protocol="bits", reader_id="PAD", more='keypad = "burst4"'),
            ],
            log_level="debug",
            tables='[heartbeat]\nurl = "https://127.0.0.1:9/ping-secret"',
        ) as agent,
    ):
        for tag in tags:
            line.present(tag)
            line.write(rdm6300_frame(tag)[:9] + b"noise")
        for key in PIN:
            keypad.write(bits_line(4, int(key)))
        agent.wait_until_committed(len(tags))
        wait_until(
            lambda: agent.status()["readers"][1]["keys_discarded"] == len(PIN), what="the keys of the PIN"
        )
        agent.kill()
        planted = f"Authorization: Bearer {JWT}\n{pipe.private_key_file.read_text()}"
        (tmp_path / "planted").write_text(planted)
        programs.install(stand_ins, "journalctl", f"cat {agent.log_file} {tmp_path}/planted")

        code = main(["report", "--config", str(agent.config), "--out", str(tmp_path / "report")])

    files = files_of(tmp_path / "report")
    text = "".join(files.values())
    assert code == 0
    assert {"check.txt", "config.json", "status.json", "held_rows.json", "journal.txt"} <= set(files)
    assert "DEBUG" in files["journal.txt"]
    assert json.loads(files["status.json"])["outbox"]["pending"] == 0
    assert "failed" in files["check.txt"] or "ok" in files["check.txt"]
    for tag in tags:
        assert raw_hex(40, tag)[2:] not in text.upper()
        assert str(tag & 0xFFFF_FFFF) not in text
    assert PIN not in text
    assert "ping-secret" not in text
    assert "eyJ" not in text
    assert f"Bearer {REMOVED}" in text
    key_lines = pipe.private_key_file.read_text().splitlines()
    assert not [one for one in key_lines if one in text]


def test_the_manifest_names_each_file_with_its_digest_and_what_is_missing_with_the_reason(
    door: CliRig, stand_ins: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    programs.install(stand_ins, "journalctl", "echo 'No journal files were found.' >&2; exit 1")
    programs.install(
        stand_ins, "dmesg", "echo 'usb 1-1: cp210x converter now attached to ttyUSB0'; echo lo: up"
    )
    out = door.directory / "report"

    code = main(["report", "--offline", "--config", str(door.config), "--out", str(out)])

    files = files_of(out)
    manifest = manifest_of(files)
    missing = {entry["name"]: entry["reason"] for entry in manifest["missing"]}
    said = capsys.readouterr()
    assert code == 0
    assert out.stat().st_mode & 0o777 == 0o600
    assert missing["journal.txt"] == "No journal files were found."
    assert "there is no outbox in " in missing["held_rows.json"]
    assert files["kernel.txt"] == "usb 1-1: cp210x converter now attached to ttyUSB0\n"
    named = {entry["name"] for entry in (*manifest["files"], *manifest["missing"])}
    assert named >= {"check.txt", "config.json", "status.json", "files.txt", "versions.json", "devices.txt"}
    assert named >= {"journal.txt", "service.txt", "clock.txt", "disks.txt", "kernel.txt", "held_rows.json"}
    for entry in manifest["files"]:
        assert hashlib.sha256(files[entry["name"]].encode()).hexdigest() == entry["sha256"]
    assert {entry["name"] for entry in manifest["files"]} | {"manifest.json"} == set(files)
    assert "without journal.txt: No journal files were found.\n" in said.err
    assert f"written to {out}: {len(files) - 1} files, " in said.out


def test_without_a_usable_configuration_it_reports_what_it_can(door: CliRig) -> None:
    door.config.write_text(door.config.read_text().replace('id = "RDR-101"', f'id = "{JWT}"'))
    out = door.directory / "report"

    code = main(["report", "--offline", "--config", str(door.config), "--out", str(out)])

    files = files_of(out)
    assert code == 0
    assert "failed   config: " in files["check.txt"]
    assert "versions.json" in files
    assert "readers[0].id: found" in manifest_of(files)["missing"][0]["reason"]
    assert "eyJ" not in "".join(files.values())


def test_a_damaged_outbox_is_no_obstacle(door: CliRig) -> None:
    with closing(Outbox(door.state_dir, agent_id=AGENT_ID)):
        pass
    (door.state_dir / "outbox.db").write_bytes(b"no database " * 1000)
    out = door.directory / "report"

    main(["report", "--offline", "--config", str(door.config), "--out", str(out)])

    files = files_of(out)
    assert json.loads(files["status.json"])["outbox"]["ok"] is False
    assert f"{door.state_dir}/outbox.db" in files["files.txt"]


def test_it_replaces_no_file(door: CliRig, capsys: pytest.CaptureFixture[str]) -> None:
    out = door.directory / "report"
    out.write_text("mine")

    code = main(["report", "--offline", "--config", str(door.config), "--out", str(out)])

    assert code == 1
    assert out.read_text() == "mine"
    assert "File exists" in capsys.readouterr().err


SECRETS = [
    pem(new_key()).decode(),
    "-----BEGIN RSA PRIVATE KEY-----\nbroken off",
    JWT,
    f"Bearer {secrets.token_urlsafe(16)}",
    "//user:pa55word@proxy.example:3128",
]


@given(
    before=st.text(st.characters(codec="ascii", exclude_characters="-/:@"), max_size=20),
    secret=st.sampled_from(SECRETS),
)
def test_a_secret_is_removed_wherever_it_is(before: str, secret: str) -> None:
    shown, removed = redacted(
        f"{before} http:{secret}\n" if secret.startswith("//") else f"{before} {secret}\n"
    )

    assert removed == 1
    assert shown.startswith(before)
    assert REMOVED in shown
    assert not [word for word in secret.split() if len(word) > 20 and word in shown]


@pytest.mark.parametrize(
    "line",
    [
        "ok       key: SHA256:piHxifMvxv4QHbRujeeRbpKxYpT4XWhEd/8VhjUOKEU=, 0 days old",
        "reader RDR-101: /dev/serial/by-id/usb-FTDI_FT232R_USB_UART_A50285BI-if00-port0 is not there",
        "https://myorg-myaccount.snowflakecomputing.com:443/v2/streaming user SFE_INGEST_USER",
        '"outbox_id": "a5adc159bffb", "channel": "hq-lobby-1-a5adc159bffb"',
    ],
)
def test_what_support_needs_stays(line: str) -> None:
    assert redacted(line) == (line, 0)
