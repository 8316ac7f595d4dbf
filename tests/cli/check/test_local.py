from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.cli.check import local
from agent.keys.keypair import generate_key, new_key, pem
from agent.keys.site_key import new_site_key, write_site_key
from agent.outbox import Outbox
from agent.readers import port_names
from agent.readers.detect import own_uart
from agent.readers.port import Port
from agent.readers.protocol import LineSettings
from agent.settings import ReaderSettings
from tests.support.cli_rig import AGENT_ID, Check, CliRig
from tests.support.emulator_process import EmulatorProcess
from tests.support.kernel_uart import KernelUart
from tests.support.port_links import share_name
from tests.support.swipes import swipe, wait_until


def test_a_key_open_to_others_is_told_with_its_cure(door: CliRig, check: Check, tmp_path: Path) -> None:
    generate_key(tmp_path / "open.p8")
    (tmp_path / "open.p8").chmod(0o644)
    door.configure(private_key_file="open.p8")

    checked = check()

    assert checked.code == 78
    assert checked.named("key file")["next"].startswith("chmod 600 ")
    assert "JWT" in checked.named("not checked")["text"]
    assert checked.named("TLS")["state"] == "ok"


def test_a_key_that_is_too_old_is_a_warning_and_no_failure(
    door: CliRig, check: Check, tmp_path: Path
) -> None:
    path = tmp_path / "old.p8"
    path.touch(mode=0o600)
    path.write_bytes(pem(replace(new_key(), created_at=datetime.now(UTC) - timedelta(days=91))))
    door.configure(private_key_file="old.p8")

    checked = check("--offline")

    finding = checked.named("key file")
    assert checked.code == 0
    assert (finding["state"], finding["next"]) == ("warning", "sudo badge-agent key rotate")
    assert finding["text"].endswith("91 days old: change it")


def test_a_port_that_another_process_holds_is_a_failure(door: CliRig, check: Check) -> None:
    port = Port(door.port, LineSettings())

    checked = check("--offline")

    port.close()
    assert checked.failed == ["reader RDR-101"]
    assert "held by" in checked.named("reader RDR-101")["text"]


def test_readers_that_share_a_port_are_no_failure_while_no_agent_runs(door: CliRig, check: Check) -> None:
    one = f'protocol = "monkeyboard"\nport = "{door.port}"\nkeypad = "none"\noptions = {{ select = "IN" }}\n'
    other = f'[[readers]]\nid = "RDR-102"\nzone_id = "Z"\n{one.replace("IN", "OUT")}'
    line = f'protocol = "rdm6300"\nport = "{door.port}"\n'
    door.config.write_text(door.config.read_text().replace(line, one + other))

    checked = check("--offline")

    assert "opens with" in checked.named("reader RDR-101")["text"]
    assert "opens with" in checked.named("reader RDR-102")["text"]


def test_a_name_that_changes_at_every_plugging_is_a_warning(
    door: CliRig, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(port_names, "DEV", tmp_path / "dev")
    name = tmp_path / "dev" / "serial" / "by-id" / "usb-Reader"
    name.parent.mkdir(parents=True)
    name.symlink_to(door.port)
    (tmp_path / "dev" / "ttyUSB0").symlink_to(door.port)
    door.configure(port=str(tmp_path / "dev" / "ttyUSB0"))

    checked = check("--offline")

    assert checked.code == 0
    assert checked.findings[7]["state"] == "warning"
    assert checked.findings[7]["next"] == f'in the configuration: port = "{name}"'


def test_the_kernels_console_on_the_machines_own_uart_is_a_warning_with_its_cure(
    door: CliRig, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(port_names, "DEV", tmp_path / "dev")
    monkeypatch.setattr(own_uart, "COMMAND_LINE", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_text("console=serial0,115200 console=tty1 rootwait\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "serial0").symlink_to(door.port)
    door.configure(port=str(tmp_path / "dev" / "serial0"))

    checked = check("--offline")

    (warning,) = [one for one in checked.findings if "the kernel's console" in one["text"]]
    assert (checked.code, warning["name"], warning["state"]) == (0, "reader RDR-101", "warning")
    assert "(console=serial0)" in warning["text"]
    assert warning["next"] == "sudo raspi-config nonint do_serial_cons 1, then reboot"


@pytest.mark.parametrize(
    ("own", "warnings"),
    [("ttyAMA0", ["do_serial_cons 1"]), ("ttyS0", ["do_serial_cons 1", "dtoverlay=disable-bt"])],
)
def test_of_a_console_and_bluetooth_check_warns_at_the_reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, warnings: list[str]
) -> None:
    dev = tmp_path / "dev"
    monkeypatch.setattr(port_names, "DEV", dev)
    monkeypatch.setattr(own_uart, "COMMAND_LINE", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_text(f"console={own},115200 console=tty1 rootwait\n")
    dev.mkdir()
    for name in ("ttyS0", "ttyAMA0"):
        (dev / name).touch()
    (dev / "serial1").symlink_to("ttyAMA0")
    reader = ReaderSettings(id="RDR-101", zone_id="Z", port=dev / own, protocol="rdm6300")

    findings = list(local.port_users(reader, 0))

    assert [(one.name, one.state) for one in findings] == [("reader RDR-101", "warning")] * len(warnings)
    assert all(cure in one.next for one, cure in zip(findings, warnings, strict=True))


def test_a_name_that_two_adapters_claim_is_a_warning(
    door: CliRig, check: Check, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name = share_name(monkeypatch, tmp_path, door.port)
    door.configure(port=name)

    checked = check("--offline")

    (warning,) = [one for one in checked.findings if "claim the name" in one["text"]]
    assert (checked.code, warning["name"], warning["state"]) == (0, "reader RDR-101", "warning")
    assert f"several adapters claim the name {name}, at present it is {door.port}" in warning["text"]
    assert warning["next"].endswith(f"set port = {tmp_path}/dev/serial/by-path/usb-1")


@pytest.mark.usefixtures("door")
def test_the_errors_that_a_ports_uart_has_counted_are_shown(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = KernelUart()
    monkeypatch.setattr("agent.readers.uart.fcntl", kernel)
    kernel.counters |= {"frame": 2, "brk": 1, "overrun": 1}

    finding = check("--offline").named("reader RDR-101")

    assert finding["state"] == "ok"
    assert finding["text"].endswith("(rdm6300); since the boot it had 1 overrun error, 3 framing errors")


def test_a_reader_that_may_have_keys_is_a_warning_until_the_configuration_says_so(
    door: CliRig, check: Check
) -> None:
    def warned() -> bool:
        return any(finding["text"].startswith("keypad is not set") for finding in check("--offline").findings)

    text = door.config.read_text().replace('protocol = "rdm6300"', 'protocol = "bits"')

    door.config.write_text(text)
    assert warned()
    door.config.write_text(text.replace("[cardholders]", 'keypad = "none"\n[cardholders]'))
    assert not warned()


def test_a_broken_cardholders_file_names_its_line(door: CliRig, check: Check, tmp_path: Path) -> None:
    (tmp_path / "holders.csv").write_text("badge_id,user_id\n1-2,USR-001\n1-3\n")
    door.configure(cardholders="holders.csv")

    checked = check("--offline")

    assert checked.code == 78
    assert "line 3" in checked.named("cardholders")["text"]
    assert "1-3" not in json.dumps(checked.findings)


def test_a_good_cardholders_file_is_counted(door: CliRig, check: Check, tmp_path: Path) -> None:
    (tmp_path / "holders.csv").write_text("badge_id,user_id\n1-2,USR-001\n")
    door.configure(cardholders="holders.csv")

    checked = check("--offline")

    assert checked.named("cardholders")["text"].endswith("1 badges")


def test_an_outbox_is_counted_and_left_as_it_is(door: CliRig, check: Check) -> None:
    outbox = Outbox(door.state_dir, agent_id=AGENT_ID)
    outbox.keep(swipe(1), swipe(2))
    outbox.close()
    before = (door.state_dir / "outbox.db").read_bytes()

    checked = check("--offline")

    assert checked.named("outbox")["text"].endswith("intact, 2 swipes pending")
    assert (door.state_dir / "outbox.db").read_bytes() == before


def test_a_damaged_outbox_is_kept_for_rescue(door: CliRig, check: Check) -> None:
    Outbox(door.state_dir, agent_id=AGENT_ID).close()
    file = door.state_dir / "outbox.db"
    file.write_bytes(b"no database " * 1000)

    checked = check("--offline")

    assert checked.code == 74
    assert f"sudo cp -a {door.state_dir} {door.state_dir}.damaged" in checked.named("outbox")["next"]


def test_a_missing_state_directory_comes_with_the_command_that_makes_it(door: CliRig, check: Check) -> None:
    door.state_dir.rmdir()

    checked = check("--offline")

    assert checked.code == 74
    assert checked.named("outbox")["next"].endswith(
        f"sudo install -d -m 0700 -o badge-agent {door.state_dir}"
    )
    assert "disk" in checked.named("not checked")["text"]


@pytest.mark.parametrize(
    ("free_bytes", "code", "state"), [(7_000_000, 74, "failed"), (50_000_000, 0, "warning"), (10**9, 0, "ok")]
)
def test_too_little_disk_is_told_before_it_is_none(
    check: Check, monkeypatch: pytest.MonkeyPatch, free_bytes: int, code: int, state: str
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))

    checked = check("--offline")

    assert (checked.code, checked.named("disk")["state"]) == (code, state)


def test_a_clock_that_nobody_set_is_a_warning(
    door: CliRig, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.config.write_text(door.config.read_text().replace('"always"', '"auto"'))
    monkeypatch.setattr(local, "is_synchronised", lambda: False)

    checked = check("--offline")

    assert checked.code == 0
    assert "timedatectl" in checked.named("clock")["next"]


# --- while an agent runs ---------------------------------------------------------------------


def sequencer_of(emulator: EmulatorProcess, channel: str) -> int | None:
    """How often a channel was opened; None for one that never was."""
    channels = emulator.state()["channels"]
    return next((one["client_sequencer"] for one in channels if one["channel"] == channel), None)


def test_a_running_agent_is_not_disturbed(door: CliRig, check: Check, emulator: EmulatorProcess) -> None:
    with door.running_agent() as pid:
        live = door.status()["uploader"]["channel"]
        wait_until(lambda: sequencer_of(emulator, live) is not None, what="the agent's open channel")
        before = sequencer_of(emulator, live)

        checked = check()

        assert (checked.code, checked.failed) == (0, [])
        assert f"(pid {pid})" in checked.named("reader RDR-101")["text"]
        assert "in use by the running agent" in checked.named("outbox")["text"]
        assert sequencer_of(emulator, live) == before
        assert checked.named("channel")["text"].startswith(f"{AGENT_ID}-check opens")


def test_every_file_that_the_configuration_names_is_among_them(
    door: CliRig, check: Check, tmp_path: Path
) -> None:
    folder = tmp_path / "secrets"
    folder.mkdir()
    folder.chmod(0o777)
    write_site_key(folder / "site.key", new_site_key())
    login = folder / "login"
    login.touch(mode=0o600)
    login.write_text("user:password\n")
    proxy = f'proxy = "http://127.0.0.1:9"\nproxy_login_file = "{login}"\n'
    privacy = f'[privacy]\nsite_key_file = "{folder}/site.key"\n'
    door.config.write_text(door.config.read_text().replace('proxy = ""\n', proxy) + privacy)

    checked = check("--offline")

    warned = {one["name"] for one in checked.findings if "every user may change it" in one["text"]}
    assert warned == {"proxy login", "site key"}


def test_files_of_the_configuration_that_others_may_change_are_warnings(
    door: CliRig, check: Check, tmp_path: Path
) -> None:
    holders = tmp_path / "holders.csv"
    holders.write_text("badge_id,user_id\n")
    door.configure(cardholders=str(holders))
    assert [one for one in check("--offline").findings if "may change it" in one["text"]] == []

    holders.chmod(0o666)
    door.config.chmod(0o664)
    os.chown(door.config, os.geteuid(), 12_345)
    checked = check("--offline")

    assert (
        checked.named("configuration")["text"] == f"{door.config}: the group 12345 may change it (mode 0664)"
    )
    warned = [
        one for one in checked.findings if one["text"] == f"{holders}: every user may change it (mode 0666)"
    ]
    assert [one["next"] for one in warned] == [f"sudo chmod o-w {holders}"]
