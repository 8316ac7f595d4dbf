"""What installers do with OSDP readers: identify, setup, check; with a reader on a pseudo-terminal."""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from agent.cli import main
from agent.cli.check.local import local_steps
from agent.cli.setup.prompts import QUESTIONS, asked
from agent.cli.setup.reader_keys import give_keys
from agent.config.loader import load
from agent.keys.reader_keys import load_reader_keys, parse_reader_keys
from agent.settings import Settings
from tests.cli.setup.test_setup import CLOSED, NAMES
from tests.support.agent_process import PtyReader
from tests.support.osdp_device import OsdpDevice
from tests.support.osdp_line import devices_on
from tests.support.setup_rig import SetupRig

KEY = bytes.fromhex("4b8f1d02c7739ae6055e21b4d8f06c93")
ANSWERS = ("--yes", *NAMES, *CLOSED, "--trust-clock", "--no-start")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is heard for a moment only, before a command is sent."""
    monkeypatch.setattr("agent.readers.detect.scan._SLICE_S", 0.1)


@pytest.mark.usefixtures("quick")
def test_identify_finds_a_reader_and_prints_its_block(
    line: PtyReader, capsys: pytest.CaptureFixture[str]
) -> None:
    with devices_on(line, OsdpDevice(3)):
        code = main(["identify", "--port", str(line.device)])

    out = capsys.readouterr().out
    assert code == 0
    assert (
        "OSDP reader at 9600 baud, address 3, vendor 5C0B3A, model 2.1, firmware 3.2.1, "
        "with the secure channel" in out
    )
    (reader,) = tomllib.loads(out.partition("set the key:")[2].partition("warning")[0])["readers"]
    assert (reader["protocol"], reader["baudrate"]) == ("osdp", 9600)
    assert reader["options"] == {"address": 3, "secure": "required"}


@pytest.mark.usefixtures("quick")
def test_identify_finds_a_reader_that_answers_nothing_without_its_key(
    line: PtyReader, capsys: pytest.CaptureFixture[str]
) -> None:
    device = OsdpDevice(0, key=KEY)
    device.requires_key = True
    with devices_on(line, device):
        code = main(["identify", "--port", str(line.device), "--baud", "38400", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert (code, answer["protocol"], answer["baudrate"]) == (0, "osdp", 38400)
    assert [(found["address"], found["requires_key"]) for found in answer["osdp"]] == [(0, True)]


def osdp(address: int, secure: str = "required") -> str:
    return f"id=RDR-101,zone=Z,protocol=osdp,keypad=none,address={address},secure={secure}"


def test_setup_gives_a_reader_its_key_and_checks_it(tmp_path: Path, line: PtyReader) -> None:
    machine, device = SetupRig(tmp_path / "machine"), OsdpDevice(1)
    machine.plug_in("usb-reader", str(line.device))
    with devices_on(line, device):
        done = machine.run("setup", *ANSWERS, "--reader", osdp(1))

    assert (done.returncode, done.stderr) == (0, "")
    assert "the default key, which is public" in done.stdout
    assert "new key set and tried" in done.stdout
    assert "OSDP address 1, vendor 5C0B3A, model 2.1, firmware 3.2.1, encrypted" in done.stdout
    path = machine.etc / "credstore.encrypted" / "badge-agent.reader_keys_encrypted"
    _name, _, encoded = path.read_bytes().partition(b"\n")  # as the rig's systemd-creds encrypts it
    assert parse_reader_keys(base64.b64decode(encoded), path).by_reader == {"RDR-101": device.key}
    assert device.key is not None
    assert device.key.hex() not in done.stdout
    (reader,) = tomllib.loads(machine.config.read_text())["readers"]
    assert reader["options"] == {"address": 1, "secure": "required"}


@pytest.fixture
def door(tmp_path: Path, line: PtyReader) -> Settings:
    """An agent started by hand, with the keys of readers in a file."""
    return settings_of(tmp_path, line, "required")


def settings_of(folder: Path, line: PtyReader, secure: str) -> Settings:
    config = folder / "config.toml"
    config.write_text(
        f"""
[agent]
id = "door"
state_dir = "state"
runtime_dir = "run"
reader_keys_file = "reader.keys"
[[readers]]
id = "RDR-101"
zone_id = "Z"
port = "{line.device}"
protocol = "osdp"
options = {{ address = 1, secure = "{secure}" }}
[snowflake]
account = "MYORG-MYACCOUNT"
user = "U"
database = "D"
schema = "S"
pipe = "P"
"""
    )
    return load(config)


def key_of(door: Settings) -> bytes | None:
    return load_reader_keys(door).of("RDR-101")


def readers_found(door: Settings) -> str:
    """The findings of `check` on the reader."""
    step = next(step for step in local_steps(door) if step.name == "reader RDR-101")
    return "; ".join(f"{found.state}: {found.text} {found.next}" for found in step.check())


def test_a_key_is_given_once_and_changed_on_request(door: Settings, line: PtyReader) -> None:
    device = OsdpDevice(1)
    with devices_on(line, device):
        given = give_keys(door, ()), device.key
        again = give_keys(door, ()), device.key
        renewed = give_keys(door, ["RDR-101"]), device.key
        found = readers_found(door)

    assert [outcome for outcome, _ in (given, again, renewed)] == [(True, True), (False, True), (True, True)]
    assert given[1] == again[1] != renewed[1] == key_of(door)
    assert "firmware 3.2.1, encrypted" in found


def test_a_reader_with_a_key_of_its_own_is_not_taken_over(
    door: Settings, line: PtyReader, capsys: pytest.CaptureFixture[str]
) -> None:
    with devices_on(line, OsdpDevice(1, key=KEY)):
        outcome = give_keys(door, ())

    assert outcome == (False, False)
    assert key_of(door) is None
    assert "put it into install mode" in capsys.readouterr().out


def test_the_only_reader_of_a_line_gets_the_configured_address(door: Settings, line: PtyReader) -> None:
    device = OsdpDevice(0)
    with devices_on(line, device):
        outcome = give_keys(door, ())

    assert outcome == (True, True)
    assert device.address == 1
    assert device.key == key_of(door)


def test_without_an_answer_no_key_is_stored(door: Settings, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = give_keys(door, ())

    assert outcome == (False, False)
    assert key_of(door) is None
    assert "badge-agent identify --port" in capsys.readouterr().out


def test_check_warns_of_a_missing_and_of_another_key(door: Settings, line: PtyReader) -> None:
    device = OsdpDevice(1)
    with devices_on(line, device):
        without = readers_found(door)
        give_keys(door, ())
        device.key = KEY
        other = readers_found(door)

    assert "warning: it is not asked, because no key is stored for it" in without
    assert "warning: it answers, but there is no encrypted session" in other


def test_check_warns_of_a_reader_in_clear_text(tmp_path: Path, line: PtyReader) -> None:
    with devices_on(line, OsdpDevice(1)):
        found = readers_found(settings_of(tmp_path, line, "none"))

    assert "in clear text: its line can be read and imitated" in found
    assert 'set secure = "required"' in found


def test_a_further_reader_of_a_line_is_asked_for_its_address_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.cli.setup.prompts.serial_devices", lambda: ["/dev/ttyUSB0"])
    given = {question.option: "-" if question.optional else "NAME" for question in QUESTIONS}
    first = ["1", "osdp", "38400", "3", "required", "", "ZONE", "", ""]
    second = ["y", "1", "3", "4", "none", "", "ZONE", "", "", "n"]
    documents = []

    @click.command()
    def ask() -> None:
        documents.append(asked({}, given, ()))

    result = CliRunner().invoke(ask, input="\n".join([*first, *second]) + "\n")

    assert result.exception is None
    assert result.output.count("must be another one than that of readers[0]") == 1
    one, other = documents[0]["readers"]
    assert one["options"] == {"address": 3, "secure": "required"}
    assert other["options"] == {"address": 4, "secure": "none"}
    assert {reader["port"] for reader in (one, other)} == {"/dev/ttyUSB0"}
    assert {(reader["protocol"], reader["baudrate"]) for reader in (one, other)} == {("osdp", 38400)}


@pytest.mark.usefixtures("quick")
def test_identify_finds_every_reader_of_a_line(
    line: PtyReader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.readers.detect.osdp_search.HIGHEST_ADDRESS", 3)
    with devices_on(line, OsdpDevice(1), OsdpDevice(3)):
        main(["identify", "--port", str(line.device), "--baud", "9600", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert [found["address"] for found in answer["osdp"]] == [1, 3]
    assert len(tomllib.loads(answer["config"])["readers"]) == 2
