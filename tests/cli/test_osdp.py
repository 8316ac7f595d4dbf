"""What installers do with OSDP readers: identify, setup, check; with a reader on a pseudo-terminal."""

from __future__ import annotations

import base64
import json
import tomllib
from pathlib import Path

import pytest

from agent.cli import main
from agent.keys.reader_keys import parse_reader_keys
from tests.cli.setup.test_setup import CLOSED, NAMES
from tests.support.agent_process import PtyReader
from tests.support.osdp_device import OsdpDevice
from tests.support.osdp_line import devices_on
from tests.support.setup_rig import SetupRig

KEY = bytes.fromhex("4b8f1d02c7739ae6055e21b4d8f06c93")
ANSWERS = ("setup", "--yes", *NAMES, *CLOSED, "--trust-clock", "--no-start", "--reader")


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


@pytest.fixture
def machine(tmp_path: Path, line: PtyReader) -> SetupRig:
    rig = SetupRig(tmp_path / "machine")
    rig.plug_in("usb-reader", str(line.device))
    return rig


def osdp(name: str, address: int, secure: str = "required") -> str:
    return f"id={name},zone=Z,protocol=osdp,keypad=none,address={address},secure={secure}"


def stored(machine: SetupRig) -> dict[str, bytes]:
    """The keys in the stored credential, as the rig's systemd-creds encrypts it."""
    path = machine.etc / "credstore.encrypted" / "badge-agent.reader_keys_encrypted"
    _name, _, encoded = path.read_bytes().partition(b"\n")
    return dict(parse_reader_keys(base64.b64decode(encoded), path).by_reader)


def test_setup_gives_a_reader_its_key_once_and_check_shows_it(machine: SetupRig, line: PtyReader) -> None:
    device = OsdpDevice(1)
    with devices_on(line, device):
        first = machine.run(*ANSWERS, osdp("RDR-101", 1))
        key = device.key
        again = machine.run(*ANSWERS, osdp("RDR-101", 1))
        checked = machine.run("check", "--offline")
        renewed = machine.run(*ANSWERS, osdp("RDR-101", 1), "--new-reader-key", "RDR-101")

    assert first.returncode == again.returncode == renewed.returncode == 0
    assert "the default key, which is public" in first.stdout
    assert "new key set and tried" in first.stdout
    assert "the default key" not in again.stdout + renewed.stdout
    assert "OSDP address 1, vendor 5C0B3A, model 2.1, firmware 3.2.1, encrypted" in checked.stdout
    assert key not in (None, device.key)
    assert stored(machine) == {"RDR-101": device.key}
    assert key is not None
    assert key.hex() not in first.stdout + first.stderr
    (reader,) = tomllib.loads(machine.config.read_text())["readers"]
    assert reader["options"] == {"address": 1, "secure": "required"}


def test_a_reader_with_a_key_of_its_own_is_not_taken_over(machine: SetupRig, line: PtyReader) -> None:
    with devices_on(line, OsdpDevice(1, key=KEY)):
        done = machine.run(*ANSWERS, osdp("RDR-101", 1))

    assert done.returncode == 1
    assert "it has a key of its own" in done.stdout
    assert "put it into install mode" in done.stdout


def test_a_reader_that_does_not_answer_is_said_with_what_finds_it(machine: SetupRig) -> None:
    done = machine.run(*ANSWERS, osdp("RDR-101", 1))

    assert done.returncode == 1
    assert "no OSDP reader answers at" in done.stdout
    assert "badge-agent identify --port" in done.stdout


def test_a_reader_in_clear_text_is_a_warning_of_check(machine: SetupRig, line: PtyReader) -> None:
    with devices_on(line, OsdpDevice(1)):
        done = machine.run(*ANSWERS, osdp("RDR-101", 1, "none"))

    assert done.returncode == 0
    assert "in clear text: its line can be read and imitated" in done.stdout
    assert 'set secure = "required"' in done.stdout


def test_two_readers_of_one_address_on_a_line_are_refused(machine: SetupRig) -> None:
    done = machine.run(*ANSWERS, osdp("A", 1), "--reader", osdp("B", 1))

    assert done.returncode == 78
    assert "readers[1].options.address: must be another one than that of readers[0]" in done.stderr
