"""`setup` with a person at a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from agent.config.loader import load
from tests.cli.setup.test_setup import ANSWERS, CLOSED, NAMES, READER
from tests.support.agent_process import PtyReader
from tests.support.setup_rig import SetupRig
from tests.support.terminal import Terminal

ABOUT_SNOWFLAKE = (
    ("Snowflake account", "MYORG-ACCOUNT"),
    ("Snowflake user", ""),
    ("Role", ""),
    ("Database", ""),
    ("Schema", ""),
    ("Pipe", ""),
    ("HTTP proxy", ""),
    ("This door's name", "door-1"),
)
ABOUT_READER = (
    ("port", "1"),
    ("protocol", "rdm6300"),
    ("id", ""),
    ("zone", "ZONE-1"),
    ("Direction", "entry"),
    ("Keypad", ""),
    ("formats", "-"),
)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[SetupRig]:
    with PtyReader(tmp_path / "line") as line:
        machine = SetupRig(tmp_path / "machine")
        machine.plug_in("usb-reader", str(line.device))
        yield machine


def setup(machine: SetupRig, *options: str) -> Terminal:
    return Terminal(machine.command("setup", *options), environment=machine.environment)


def answer(terminal: Terminal, answers: Sequence[tuple[str, str]]) -> None:
    for question, text in answers:
        terminal.expect(question)
        terminal.expect(": ")
        terminal.type(text)


def test_an_installer_answers_and_the_door_runs(machine: SetupRig) -> None:
    with setup(machine, *CLOSED) as terminal:
        answer(terminal, [*ABOUT_SNOWFLAKE, *ABOUT_READER, ("Another reader?", "n"), ("Write", "y")])
        code = terminal.ended()

    settings = load(machine.config)
    (reader,) = settings.readers
    assert code == 0
    assert machine.told == ["enable --now badge-agent.service"]
    assert (settings.agent.id, settings.snowflake.user) == ("door-1", "SFE_INGEST_USER")
    assert (reader.id, reader.zone_id, reader.direction) == ("RDR-101", "ZONE-1", "ENTRY")
    assert str(reader.port).endswith("by-id/usb-reader")
    assert "PRIVATE" not in terminal.screen


def test_what_is_wrong_is_refused_where_it_is_typed_with_the_reason(machine: SetupRig) -> None:
    with setup(machine, *NAMES, *CLOSED) as terminal:
        terminal.expect("port, a number or a name [1]: ")
        terminal.type("7")
        terminal.expect("found '7'; must be the full name of a device")
        terminal.expect("port, a number or a name [1]: ")
        terminal.type("1")
        terminal.expect("Its protocol: ")
        terminal.type("rdm63")
        terminal.expect("did you mean rdm6300?")
        terminal.expect("Its protocol: ")
        code = terminal.interrupted()

    assert code == 130
    assert list(machine.etc.iterdir()) == []


def test_a_second_reader_cannot_have_the_ids_and_ports_of_the_first(machine: SetupRig) -> None:
    second = machine.plug_in("usb-second")

    with setup(machine, *NAMES, *CLOSED) as terminal:
        first = (("port", "1"), *ABOUT_READER[1:])
        answer(terminal, [*first, ("Another reader?", "y")])
        shown = terminal.expect("The reader's port, a number or a name [1]: ")
        terminal.type("1")
        answer(terminal, [("protocol", "bits"), ("id", "RDR-101")])
        terminal.expect("already used by readers[0]")
        answer(terminal, [("id", ""), *ABOUT_READER[3:], ("Another reader?", "n"), ("Write", "y")])
        terminal.ended()

    assert "usb-reader" not in shown
    assert [reader.id for reader in load(machine.config).readers] == ["RDR-101", "RDR-102"]
    assert str(load(machine.config).readers[1].port) == second


def test_what_is_given_is_not_asked_and_no_is_an_answer(machine: SetupRig) -> None:
    with setup(machine, *NAMES, *CLOSED, "--reader", READER) as terminal:
        answer(terminal, [*ABOUT_READER[5:], ("Write", "n")])
        code = terminal.ended()

    assert code == 130
    assert list(machine.etc.iterdir()) == []


def test_the_second_time_every_answer_is_there_already(machine: SetupRig) -> None:
    machine.run("setup", *ANSWERS)
    before = machine.config.read_text()

    with setup(machine) as terminal:
        answer(terminal, [(question, "") for question, _ in ABOUT_SNOWFLAKE])
        terminal.expect("Keep these readers? [Y/n]: ")
        terminal.type("")
        answer(terminal, [("Write", "")])
        code = terminal.ended()

    assert code == 0
    assert machine.config.read_text() == before
    assert "restart badge-agent.service" not in machine.told


def test_the_answer_whether_the_reader_has_keys_is_written(machine: SetupRig) -> None:
    about_reader = {**dict(ABOUT_READER), "protocol": "bits"}
    del about_reader["Keypad"], about_reader["formats"]

    with setup(machine, *NAMES, *CLOSED, "--no-start") as terminal:
        answer(terminal, list(about_reader.items()))
        question = terminal.expect("[none]: ")
        terminal.type("yes")
        terminal.expect("found 'yes'")
        answer(terminal, [("Keypad", "pin26"), ("formats", "-"), ("Another reader?", "n"), ("Write", "y")])
        terminal.ended()

    assert "does this reader have keys? none, or how they are sent: " in question
    assert 'keypad = "pin26"' in machine.config.read_text()
    assert load(machine.config).readers[0].keypad == "pin26"


def test_that_a_reader_has_no_keys_is_written_too(machine: SetupRig) -> None:
    """An answer, not the default `unknown`, of which `check` warns."""
    about_reader = {**dict(ABOUT_READER), "protocol": "bits"}

    with setup(machine, *NAMES, *CLOSED, "--no-start") as terminal:
        answer(terminal, [*about_reader.items(), ("Another reader?", "n"), ("Write", "y")])
        terminal.ended()

    assert 'keypad = "none"' in machine.config.read_text()
    assert "keypad is not set" not in terminal.screen


def test_the_console_and_bluetooth_on_the_machines_own_uart_are_shown_where_its_port_is_typed(
    machine: SetupRig,
) -> None:
    dev = machine.root / "dev"
    for name in ("ttyS0", "ttyAMA0"):
        (dev / name).touch()
    (dev / "serial0").symlink_to("ttyS0")
    (dev / "serial1").symlink_to("ttyAMA0")
    (machine.root / "cmdline").write_text("console=serial0,115200 console=tty1 rootwait\n")

    with setup(machine, *NAMES, *CLOSED) as terminal:
        answer(terminal, [("port", str(dev / "serial0"))])
        shown = terminal.expect("Its protocol: ")
        terminal.interrupted()

    assert "the kernel's console is on this port (console=serial0)" in shown
    assert "-> sudo raspi-config nonint do_serial_cons 1, then reboot" in shown
    assert "Bluetooth has the PL011" in shown
    assert "-> add dtoverlay=disable-bt to /boot/firmware/config.txt, then reboot" in shown
