from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.cli import main
from agent.readers import port_names
from agent.readers.detect import own_uart
from agent.readers.port import Port
from agent.readers.protocol import LineSettings
from tests.support.agent_process import PtyReader, bits_line, h10301, rdm6300_frame

TAG = 0x0100_63E9_AE


@contextmanager
def presenting(line: PtyReader, frame: bytes) -> Iterator[None]:
    """A person who holds the card to the reader again and again."""
    ended = threading.Event()

    def present() -> None:
        while not ended.wait(0.15):
            line.write(frame)

    person = threading.Thread(target=present)
    person.start()
    yield
    ended.set()
    person.join()


def test_a_card_is_identified_and_the_block_to_paste_is_printed(
    line: PtyReader, capsys: pytest.CaptureFixture[str]
) -> None:
    with presenting(line, bits_line(26, h10301(123, 45_015))):
        code = main(["identify", "--port", str(line.device), "--printed-number", "45015"])

    out = capsys.readouterr().out
    assert code == 0
    assert "Protocol bits at 9600 baud" in out
    assert any(row.split()[:4] == ["->", "H10301", "123", "45015"] for row in out.splitlines())
    assert "The printed number is its card number of H10301" in out
    assert f'port = "{line.device}"\nprotocol = "bits"' in out
    assert "has no name under /dev/serial/by-id" in out


def test_a_program_is_answered_in_json(line: PtyReader, capsys: pytest.CaptureFixture[str]) -> None:
    with presenting(line, rdm6300_frame(TAG)):
        code = main(["identify", "--port", str(line.device), "--printed-number", "6547886", "--json"])

    answer = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (answer["identified"], answer["protocol"], answer["baudrate"]) == (True, "rdm6300", 9600)
    (card,) = answer["cards"]
    assert (card["bits"], card["raw"], card["check"]) == (40, "010063E9AE", "checksum")
    assert "card number of EM4100" in card["printed"]
    (reader,) = tomllib.loads(answer["config"])["readers"]
    assert reader["formats"] == ["EM4100"]


def test_a_silent_line_is_1_and_says_what_to_look_at(
    line: PtyReader, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.identify.BUDGET_S", 0.3)

    code = main(["identify", "--port", str(line.device), "--baud", "9600"])

    assert code == 1
    assert "not one byte came" in capsys.readouterr().out


def test_unknown_text_is_shown_with_options_that_read_it(
    line: PtyReader, capsys: pytest.CaptureFixture[str]
) -> None:
    with presenting(line, b"PICC type: MIFARE 1KB\r\nCard UID: 04 29 2E 5A\r\n"):
        code = main(["identify", "--port", str(line.device), "--baud", "9600"])

    shown = capsys.readouterr()
    assert code == 1
    assert 'template = "Card UID: {id}", separators = " ", ignore = "PICC type: MIFARE 1KB"' in shown.out
    assert "29" not in shown.out


def test_what_is_typed_at_a_pad_is_never_shown(line: PtyReader, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch, presenting(line, bits_line(26, h10301(0, 4711))):
        patch.setattr("agent.cli.identify.BUDGET_S", 1.0)
        code = main(["identify", "--port", str(line.device)])

    shown = capsys.readouterr()
    assert code == 1
    assert "look like PINs" in shown.out
    assert "4711" not in shown.out + shown.err


def test_a_port_that_another_process_holds_is_named_with_what_to_do(
    line: PtyReader, capsys: pytest.CaptureFixture[str]
) -> None:
    held = Port(str(line.device), LineSettings())

    code = main(["identify", "--port", str(line.device)])

    held.close()
    err = capsys.readouterr().err
    assert code == 1
    assert "is held by" in err
    assert "sudo systemctl stop badge-agent" in err


def test_a_port_that_is_not_there_is_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["identify", "--port", str(tmp_path / "ttyUSB9")])

    assert code == 1
    assert "ttyUSB9 is not there" in capsys.readouterr().err


def test_an_interrupt_ends_it_with_a_word_and_no_traceback(line: PtyReader) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "identify", "--port", str(line.device)],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        while "9600 baud" not in process.stderr.readline():
            pass

        process.send_signal(signal.SIGINT)

        rest = process.stderr.read()
    assert process.returncode == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_the_kernels_console_on_the_port_is_shown_with_its_cure(
    line: PtyReader,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: tuple[str, ...],
) -> None:
    monkeypatch.setattr("agent.cli.identify.BUDGET_S", 0.3)
    monkeypatch.setattr(port_names, "DEV", tmp_path / "dev")
    monkeypatch.setattr(own_uart, "COMMAND_LINE", tmp_path / "cmdline")
    (tmp_path / "cmdline").write_text("console=serial0,115200 console=tty1 rootwait\n")
    (tmp_path / "dev").mkdir()
    port = tmp_path / "dev" / "serial0"
    port.symlink_to(line.device)

    main(["identify", "--port", str(port), "--baud", "9600", *options])

    out = capsys.readouterr().out
    assert "the kernel's console is on this port (console=serial0)" in out
    assert "sudo raspi-config nonint do_serial_cons 1, then reboot" in out


def test_with_card_numbers_keyed_the_card_in_the_hand_is_still_shown_and_stored_nowhere(
    line: PtyReader, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "door" / "config.toml"
    config.parent.mkdir()
    config.write_text('[agent]\nid = "door"\nstate_dir = "."\n[privacy]\ncard_numbers = "keyed"\n')
    monkeypatch.setenv("BADGE_AGENT_CONFIG", str(config))
    before = config.read_bytes()

    with presenting(line, bits_line(26, h10301(123, 45_015))):
        identified = main(["identify", "--port", str(line.device)])
    by_identify = capsys.readouterr().out
    decoded = main(["decode", "bits", f"26:{h10301(123, 45_015):07X}"])
    by_decode = capsys.readouterr().out

    assert (identified, decoded) == (0, 0)
    assert any(row.split()[:3] == ["H10301", "123", "45015"] for row in by_identify.splitlines())
    assert "H10301: facility code 123, card number 45015" in by_decode
    assert [(path, path.read_bytes()) for path in config.parent.iterdir()] == [(config, before)]
